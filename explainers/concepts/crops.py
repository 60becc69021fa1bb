"""The part of a picture that a heat map points at."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

KERNEL = 19
"""Places of the blur, as zennit-crp has it; its width follows, see `blurred`."""
THRESHOLD = 0.1
"""Part of the blurred map's maximum above which a place is in the crop, as zennit-crp has it."""


def blurred(heatmaps: Tensor, kernel: int = KERNEL) -> Tensor:
    """Return heat maps under a Gaussian blur whose borders are mirrored.

    The width is ``0.15 kernel + 0.35``, which is torchvision's default. Along an axis that is too
    short to be mirrored by half a kernel, the kernel is the longest that is possible, and its width
    follows.

    Parameters
    ----------
    heatmaps
        ``(..., height, width)``.
    kernel
        Odd number of places.
    """
    down, across = (
        _blur(size, kernel).to(heatmaps.device, heatmaps.dtype) for size in heatmaps.shape[-2:]
    )
    return down @ heatmaps @ across.mT


@lru_cache(maxsize=16)
def _blur(size: int, kernel: int) -> Tensor:
    """Return the matrix that blurs an axis, ``(size, size)``, float64."""
    kernel = min(kernel, 2 * size - 1)
    half = kernel // 2
    taps = torch.arange(-half, half + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / (0.15 * kernel + 0.35)) ** 2)
    reads = (torch.arange(size)[:, None] + taps.to(torch.int64)).abs()
    reads = torch.where(reads < size, reads, 2 * (size - 1) - reads)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, reads, (weights / weights.sum()).expand(size, -1))


def crops(heatmaps: Tensor, threshold: float = THRESHOLD, kernel: int = KERNEL) -> Tensor:
    """Return the boxes that hold what is relevant in heat maps (Achtibat et al. 2023).

    doi:10.1038/s42256-023-00711-8; the numbers are those of zennit-crp: the box holds all places
    where ``blur(h) / (max blur(h) + 1e-10) > threshold``, so that what speaks against a neuron is
    not in it. Its last row and column are part of it here, and are dropped there. Of a blurred map
    without a positive place, as one of a neuron that starts with a negative value may be, the
    negative is taken, which is not cropped there. Where there is no such place, the box is the
    whole.

    Parameters
    ----------
    heatmaps
        ``(..., height, width)``; most to the point are those of one neuron.
    threshold
        Part of the maximum.
    kernel
        Of the blur, see `blurred`.

    Returns
    -------
    Tensor
        Top, left, bottom, right, the latter two behind the last; int64, ``(..., 4)``.
    """
    smooth = blurred(heatmaps, kernel)
    is_against = smooth.amax((-2, -1), keepdim=True) <= 0
    smooth = torch.where(is_against, -smooth, smooth)
    is_in = smooth / (smooth.amax((-2, -1), keepdim=True) + 1e-10) > threshold
    top, bottom = _extent(is_in.any(-1))
    left, right = _extent(is_in.any(-2))
    return torch.stack([top, left, bottom, right], -1)


def _extent(is_in: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first place that is in, and that behind the last; all if none is."""
    size = is_in.shape[-1]
    places = is_in.to(torch.int64)
    is_any = is_in.any(-1)
    first = places.argmax(-1)
    last = size - places.flip(-1).argmax(-1)
    return torch.where(is_any, first, 0), torch.where(is_any, last, size)
