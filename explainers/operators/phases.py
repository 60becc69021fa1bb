"""The transpose of a strided convolution with few input channels, phase by phase.

The gradient at ``stride * q + r`` gets the taps ``stride * m + r`` of the kernel alone, so that all
phases ``r`` together are one convolution of small kernels without a stride, whose channels are then
interleaved (Shi et al. 2016, arXiv:1609.05158). CPU kernels of the plain transpose work on blocks
of 16 input channels and waste most of one on the three of an image: the first convolution of a
ResNet takes half the time this way, that of a vision transformer a seventh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 16
"""Channels that CPU kernels compute at once."""
_WORTH = 0.67
"""Of the multiplications, that must suffice: interleaving takes time too."""


def pays(weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    """Return whether phases are faster, for an ungrouped weight ``(out, in, height, width)``."""
    if weight.ndim != 4 or weight.device.type != "cpu" or set(dilation) != {1}:
        return False
    if stride[0] == 1 or stride[0] != stride[1]:
        return False
    n_inputs, *kernel = weight.shape[1:]
    n_phases = n_inputs * stride[0] ** 2
    taps = _n_taps(kernel[0], stride[0]) * _n_taps(kernel[1], stride[0])
    return _blocks(n_phases) * taps <= _WORTH * _blocks(n_inputs) * kernel[0] * kernel[1]


def transposed(
    relevance: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...], extent: torch.Size
) -> Tensor:
    """Return the transpose's value.

    Parameters
    ----------
    relevance
        ``(batch, out, height, width)``.
    weight
        ``(out, in, height, width)``.
    stride, padding
        Of the convolution; the stride along both axes.
    extent
        ``(height, width)`` of the convolution's input.
    """
    n_outputs, n_inputs, *kernel = weight.shape
    rows, columns = (_n_taps(size, stride) for size in kernel)
    filled = functional.pad(weight, (0, columns * stride - kernel[1], 0, rows * stride - kernel[0]))
    split = filled.reshape(n_outputs, n_inputs, rows, stride, columns, stride)
    phases = split.permute(1, 3, 5, 0, 2, 4).flip(-1, -2).flatten(0, 2)
    phases = phases.contiguous(memory_format=torch.channels_last)
    apart = functional.conv2d(relevance, phases, padding=(rows - 1, columns - 1))
    found = functional.pixel_shuffle(apart, stride)
    below, right = (
        size + width - made
        for size, width, made in zip(extent, padding, found.shape[2:], strict=True)
    )
    return functional.pad(found, (-padding[1], right, -padding[0], below))


def _n_taps(size: int, stride: int) -> int:
    return -(-size // stride)


def _blocks(n_channels: int) -> int:
    return -(-n_channels // _BLOCK) * _BLOCK
