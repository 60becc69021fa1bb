"""Heat maps that are averaged down to fewer places."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def extent(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """Return the size that heat maps of some size are averaged down to.

    The longer side becomes `longest`, the other is in proportion; smaller maps, and all where it is
    None, stay as they are.
    """
    largest = max(height, width)
    if longest is None or largest <= longest:
        return height, width
    down, across = (max(1, round(side * longest / largest)) for side in (height, width))
    return down, across


def averaged(heatmaps: Tensor, longest: int | None) -> Tensor:
    """Return heat maps of which each place is the mean over the area that it covers.

    A place that is only partly covered counts by its part, so that every place counts as much in
    all: the sum is that of the map times the quotient of the numbers of places.

    Parameters
    ----------
    heatmaps
        ``(..., height, width)``.
    longest
        See `extent`.
    """
    sizes = heatmaps.shape[-2], heatmaps.shape[-1]
    made = extent(*sizes, longest)
    if made == sizes:
        return heatmaps
    down, across = (
        _means(size, fewer).to(heatmaps.device, heatmaps.dtype)
        for size, fewer in zip(sizes, made, strict=True)
    )
    return down @ heatmaps @ across.mT


@lru_cache(maxsize=16)
def _means(size: int, fewer: int) -> Tensor:
    """Return the matrix that averages along an axis, ``(fewer, size)``, float64."""
    places = torch.arange(size, dtype=torch.float64)
    first = torch.arange(fewer, dtype=torch.float64)[:, None] * (size / fewer)
    last = first + size / fewer
    covered = torch.minimum(last, places + 1) - torch.maximum(first, places)
    return covered.clamp(min=0) * (fewer / size)
