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


def portion(relevant: Tensor, irrelevant: Tensor, *, is_halved: bool) -> Tensor:
    """Return which portion of a bias is the relevant part's, from 0 to 1.

    Parameters
    ----------
    irrelevant
        It is written over.
    is_halved
        Whether it is a half where both parts are zero, or zero.
    """
    ours, theirs = relevant.abs(), irrelevant.abs_()
    if not is_halved:
        return ours.div_(theirs.add_(ours)).nan_to_num_(0.0)
    least = stabiliser(relevant.dtype)
    ours.add_(least)
    return ours.div_(theirs.add_(ours).add_(least))


def shared_constant(relevant: Tensor, irrelevant: Tensor, constant: Tensor) -> Tensor:
    """Return the relevant part with its share of a norm's constant; none of it where both are 0."""
    ours = relevant.abs()
    ratio = ours / (ours + irrelevant.abs())
    return relevant + constant * torch.where(ratio.isnan(), 0.0, ratio)


def stabiliser(dtype: torch.dtype) -> float:
    """Return the published stabiliser, or the least number that a type holds if that is more."""
    limits = torch.finfo(dtype)
    return max(STABILISER, limits.tiny * limits.eps)
