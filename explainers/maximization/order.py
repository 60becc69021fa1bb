"""The order of the lists as one integer per entry: value descending, then sample ascending."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

NONE = -(1 << 63)
"""Key of what is in no list; less than that of any finite value."""

LAST_SAMPLE = (1 << 31) - 2
"""Greatest sample index that fits."""

_LOW = (1 << 32) - 1
_MAGNITUDE = (1 << 31) - 1


def keys(value: Tensor, sample: Tensor) -> Tensor:
    """Return int64 keys of which the greater is the better: a total order.

    The upper half are the bits of the value as float32, those of negative values turned round, so
    that they are ordered as the values are (-0 is 0); the lower half is the sample index, inverted.
    What is not finite has the key `NONE`.

    Parameters
    ----------
    value
        Float32, any shape.
    sample
        Sample indices from 0 to `LAST_SAMPLE`, of a shape that broadcasts to that of `value`; -1
        where there is none.
    """
    # Adding zero makes -0 to 0.
    found = _turned((value + 0.0).view(torch.int32)).long()
    found <<= 32
    found |= _LOW - sample.long()
    # Infinity times zero is NaN, and that is not equal to zero.
    return found.masked_fill_((value * 0 != 0) | (sample < 0), NONE)


def values(found: Tensor) -> Tensor:
    """Return the values of keys, float32; NaN for `NONE`."""
    value = _turned((found >> 32).int()).view(torch.float32)
    return torch.where(found == NONE, torch.nan, value)


def samples(found: Tensor) -> Tensor:
    """Return the sample indices of keys, int32; -1 for `NONE`."""
    return torch.where(found == NONE, -1, _LOW - (found & _LOW)).int()


def _turned(bits: Tensor) -> Tensor:
    """Return float32 bits as integers in the order of the values, or these as the bits."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)
