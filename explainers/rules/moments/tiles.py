"""The transpose of a convolution with few input channels, a tile of places at once.

The gradient at ``stride 1`` is a convolution with as few output channels as an image has, and CPU
kernels compute them in blocks of 16. A square tile of places takes the idle channels: the flipped
kernel, shifted to each place of the tile, gives as many channels, computed tile by tile and then
interleaved (Shi et al. 2016, arXiv:1609.05158). For one channel and kernels of 5 x 5 it takes 0.28
of the time, for three channels 0.5 to 0.65. See `explainers.operators.phases` for strides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Convolution

_BLOCK = 16
"""Channels that CPU kernels compute at once."""
_WORTH = 0.67
"""Of the multiplications, that must suffice: interleaving takes time too."""


def tile_of(op: Convolution, extent: tuple[int, ...]) -> int:
    """Return the side of the tile that pays most for inputs of some extent; 1 where none does."""
    weight = op.weight
    is_plain = op.groups == 1 and not op.transposed and not op.margins
    if weight.ndim != 4 or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return 1
    if not is_plain or {*op.stride, *op.dilation} != {1}:
        return 1
    _, n_inputs, *kernel = weight.shape
    if any(width >= size for width, size in zip(op.padding, kernel, strict=True)):
        return 1
    costs = {side: _cost(side, n_inputs, kernel) for side in (1, 2, 4)}
    fitting = [side for side in (2, 4) if not any(size % side for size in extent)]
    best = min(fitting, key=costs.__getitem__, default=1)
    return best if costs[best] <= _WORTH * costs[1] else 1


def _cost(side: int, n_inputs: int, kernel: list[int]) -> float:
    n_channels = -(-n_inputs * side**2 // _BLOCK) * _BLOCK
    return n_channels * (kernel[0] + side - 1) * (kernel[1] + side - 1) / side**2


def tiled(weight: Tensor, side: int) -> Tensor:
    """Return the flipped kernels, shifted to each place of a tile.

    Parameters
    ----------
    weight
        ``(out, in, height, width)``.
    side
        Of the tile.

    Returns
    -------
    Tensor
        ``(in * side * side, out, height + side - 1, width + side - 1)``.
    """
    n_outputs, n_inputs, height, width = weight.shape
    flipped = weight.flip(2, 3).transpose(0, 1)
    sizes = (height + side - 1, width + side - 1)
    places = weight.new_zeros((n_inputs, side, side, n_outputs, *sizes))
    for row in range(side):
        for column in range(side):
            places[:, row, column, :, row : row + height, column : column + width] = flipped
    return places.flatten(0, 2).contiguous(memory_format=torch.channels_last)


def transposed(op: Convolution, slope: Tensor, kernels: Tensor, side: int) -> Tensor:
    """Return the transpose's value for what comes back, given what `tiled` made of the weights."""
    height, width = op.weight.shape[2:]
    padding = (height - 1 - op.padding[0], width - 1 - op.padding[1])
    apart = functional.conv2d(slope, kernels, stride=side, padding=padding)
    return functional.pixel_shuffle(apart, side)
