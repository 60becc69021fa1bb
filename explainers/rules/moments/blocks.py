"""Values in blocks that stay in a CPU's cache while several functions are computed of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

_BLOCK_BYTES = 1 << 17
"""Of each tensor: about ten of them are in use at once, and caches of 1 to 2 MiB are usual."""


def alike(value: Tensor, like: Tensor) -> Tensor:
    """Return a value in the memory layout of another of its shape."""
    if value.stride() == like.stride():
        return value
    return torch.empty_like(like).copy_(value)


def blocks(
    given: Sequence[Tensor], made: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield parts of what is given, and of what is to be made of it, flat in memory's order.

    Parameters
    ----------
    given, made
        Of one shape and layout; where that leaves gaps in memory, they come whole.
    """
    first = made[0]
    size = _BLOCK_BYTES // first.element_size()
    is_flat = all(one.stride() == first.stride() for one in (*given, *made)) and (
        first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
        if first.ndim == 4
        else first.is_contiguous()
    )
    if first.device.type != "cpu" or first.numel() <= size or not is_flat:
        yield list(given), list(made)
        return
    parts = [one.as_strided((one.numel(),), (1,)).split(size) for one in (*given, *made)]
    for together in zip(*parts, strict=True):
        yield list(together[: len(given)]), list(together[len(given) :])
