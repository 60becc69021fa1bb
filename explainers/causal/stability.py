"""How much sets of neurons agree that were selected more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def jaccard(left: Tensor, right: Tensor) -> Tensor:
    """Return ``|A and B| / |A or B|`` of sets along the last axis, in [0, 1]; 1 if both are empty.

    Parameters
    ----------
    left, right
        Which neurons the sets have, bool ``(..., neurons)``; they broadcast.
    """
    both = (left & right).sum(-1)
    either = (left | right).sum(-1)
    return torch.where(either == 0, 1.0, both.double() / either.clamp(min=1))


def frequency(sets: Tensor) -> Tensor:
    """Return the share of the repeats that have each neuron, in [0, 1].

    Parameters
    ----------
    sets
        Bool ``(repeats, ..., neurons)``; without repeats the shares are NaN.
    """
    return sets.double().mean(0)


def nogueira(sets: Tensor) -> Tensor:
    r"""Return the stability of a selection over repeats (Nogueira, Sechidis and Brown 2018).

    JMLR 18(174), definition 4. With :math:`p_f` the share of the M repeats that have neuron f of
    d, and :math:`\bar k` the mean size of the sets,

    .. math:: \Phi = 1 - \frac{\frac1d \sum_f \frac{M}{M-1} p_f (1 - p_f)}
                              {\frac{\bar k}{d} (1 - \frac{\bar k}{d})},

    1 where all repeats select the same, 0 in expectation where they select at random, at least
    ``-1 / (M - 1)``. It is NaN where nothing, or everything, is selected in all repeats, and of
    fewer than two repeats.

    Parameters
    ----------
    sets
        Bool ``(repeats, ..., neurons)``.

    Returns
    -------
    Tensor
        Float64 ``(...)``.
    """
    share = frequency(sets)
    n_repeats = len(sets)
    if n_repeats < 2 or sets.shape[-1] == 0:
        return share.new_full(sets.shape[1:-1], torch.nan)
    spread = (share * (1 - share)).mean(-1) * n_repeats / (n_repeats - 1)
    return 1 - spread / _chance(share.mean(-1))


def _chance(size: Tensor) -> Tensor:
    """Return the variance of a random set's membership; NaN where there is none."""
    variance = size * (1 - size)
    return torch.where((size == 0) | (size == 1), torch.nan, variance)
