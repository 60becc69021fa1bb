"""Sum, maximum and the first place of the maximum, of many values at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.concepts.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor


def reduced(amounts: Tensor, n_axes: int) -> Scores:
    """Return the scores of concepts, of half precision in single, where sums do not overflow.

    Parameters
    ----------
    amounts
        ``(batch, *concepts, *positions)``, in any memory layout.
    n_axes
        How many axes hold concepts.
    """
    batch, behind = len(amounts), 1 + n_axes
    n = amounts.shape[1:behind].numel()
    if amounts.ndim == behind:
        alone = amounts.reshape(batch, n).to(_dtype_of_scores(amounts))
        return Scores(alone, alone, torch.zeros_like(alone, dtype=torch.int64))
    flat = amounts.flatten(behind).flatten(1, n_axes)  # (batch, concepts, positions)
    peak, position = _greatest(flat)
    dtype = _dtype_of_scores(flat)
    return Scores(flat.sum(-1, dtype=dtype), peak.to(dtype), position)


def _dtype_of_scores(amounts: Tensor) -> torch.dtype:
    return torch.float32 if amounts.itemsize < torch.float32.itemsize else amounts.dtype


def _greatest(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum over the last axis, NaN where there is one, and its first index."""
    if flat.device.type != "cpu" or flat.stride(1) != 1 or flat.shape[1] == 1:
        peak, position = flat.max(-1)
        return peak, position
    # Where channels follow each other in memory, `max` goes through it place by place and takes
    # ten to 25 times as long as a pool over everything, which is vectorised over channels.
    batch, channels, n = flat.shape
    step, sample = flat.stride(2), flat.stride(0) if batch > 1 else n * flat.stride(2)
    # strides that a batch of one, and an axis of one, leave open have to be as channels last has
    # them, or the pool takes the value for contiguous
    places = flat.as_strided((batch, channels, 1, n), (sample, 1, n * step, step))
    peak, position = functional.max_pool2d(places, places.shape[2:], return_indices=True)
    return peak[..., 0, 0], position[..., 0, 0]
