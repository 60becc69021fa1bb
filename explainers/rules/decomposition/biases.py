"""How two parts share a bias: in proportion to their magnitudes (Singh, Murdoch, Yu 2019).

``r + b (|r| + e) / (|r| + |i| + 2 e)`` with ``e = 1e-20``: where nothing reaches a value, each part
gets half of its bias. The constant of a norm is shared without ``e``; there it is irrelevant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

STABILISER = 1e-20


def shared(relevant: Tensor, irrelevant: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return both parts with their shares of a bias that broadcasts; halves of it where both are 0.

    Singh, Murdoch, Yu 2019, arXiv:1806.05337.
    """
    least = stabiliser(relevant.dtype)
    ours, theirs = relevant.abs() + least, irrelevant.abs() + least
    both = ours + theirs
    return relevant + bias * (ours / both), irrelevant + bias * (theirs / both)


def shared_constant(relevant: Tensor, irrelevant: Tensor, constant: Tensor) -> Tensor:
    """Return the relevant part with its share of a norm's constant; none of it where both are 0."""
    ours = relevant.abs()
    ratio = ours / (ours + irrelevant.abs())
    return relevant + constant * torch.where(ratio.isnan(), 0.0, ratio)


def stabiliser(dtype: torch.dtype) -> float:
    """Return the published stabiliser, or the least number that a type holds if that is more."""
    return max(STABILISER, torch.finfo(dtype).tiny)
