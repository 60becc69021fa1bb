"""Mean and standard deviation per channel: towards the model, and back for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def normalise(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return ``(image - mean) / std``, ``(channel, height, width)``; one value serves all."""
    return (image - _per_channel(image, mean)) / _per_channel(image, std)


def restore(inputs: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return what `normalise` was given, in [0, 1]; any leading dimensions."""
    return (inputs * _per_channel(inputs, std) + _per_channel(inputs, mean)).clamp(0, 1)


def check(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Refuse what cannot be divided by.

    Raises
    ------
    ValueError
        If there is no value, or a standard deviation is not positive.
    """
    if not mean or not std:
        raise ValueError("mean or std is empty, expected one value, or one per channel")
    if min(std) <= 0:
        raise ValueError(f"got std {list(std)!r}, expected positive values")


def _per_channel(image: Tensor, values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=image.dtype, device=image.device)[:, None, None]
