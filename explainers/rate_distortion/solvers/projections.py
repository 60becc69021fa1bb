"""The mask of a given rate that is nearest to some scores, for many rows and rates at once.

``P_k(z)`` is the point of ``{0 <= s <= 1, sum s = k}`` that is nearest to z: ``s_i =
min(max(z_i - tau, 0), 1)`` with the threshold tau at which the sum is k. That sum falls with tau,
linearly between the ``2 d`` places where an entry becomes 1 or 0, so that sorting finds tau exactly
(Wang and Lu 2015, arXiv:1503.01002). Larger sums have smaller thresholds: the masks that one vector
of scores has at several rates are nested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def capped_simplex(scores: Tensor, totals: Tensor, *, is_bound: bool = False) -> Tensor:
    """Return the nearest masks with the sums that are asked for; differentiable in the scores.

    Where F are the entries strictly between 0 and 1, the Jacobian is ``I_F - 1_F 1_F^T / |F|``; it
    is zero where there are none.

    Parameters
    ----------
    scores
        ``(rows, d)``, finite.
    totals
        Sums of the masks, ``(rows, n)``, in [0, d].
    is_bound
        Whether sums may also be smaller: the nearest of ``{0 <= s <= 1, sum s <= k}``. Where the
        bound does not bind, the Jacobian is ``I_F``.

    Returns
    -------
    Tensor
        ``(rows, n, d)``, in [0, 1].
    """
    masks: Tensor = _CappedSimplex.apply(scores, totals, is_bound)
    return masks


def thresholds(scores: Tensor, totals: Tensor) -> Tensor:
    """Return what is to be subtracted from scores ``(rows, d)``, float64 ``(rows, n)``.

    Where several thresholds give the same mask, one of them.
    """
    scores, totals = scores.double(), totals.double()
    falls = torch.ones_like(scores)
    places, order = torch.cat([scores - 1, scores], 1).sort(dim=1, stable=True)
    # from one place to the next, as many entries fall as have begun and have not ended
    n_falling = torch.cat([falls, -falls], 1).gather(1, order).cumsum(1)
    lost = (n_falling[:, :-1] * places.diff(dim=1)).cumsum(1)  # up to the right end of each piece
    wanted = scores.shape[1] - totals
    piece = torch.searchsorted(lost, wanted).clamp(max=lost.shape[1] - 1)
    before = torch.nn.functional.pad(lost, (1, 0)).gather(1, piece)
    slope = n_falling.gather(1, piece)
    tau = places.gather(1, piece) + (wanted - before) / slope.clamp(min=1)
    return tau.clamp(places[:, :1], places[:, -1:])


class _CappedSimplex(torch.autograd.Function):
    """The projection, with its Jacobian."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, totals: Tensor, is_bound: bool) -> Tensor:
        tau = thresholds(scores, totals)
        if is_bound:
            tau = tau.clamp(min=0)
        masks = (scores[:, None].double() - tau[..., None]).clamp(0, 1).to(scores.dtype)
        ctx.save_for_backward(
            masks, tau > 0 if is_bound else torch.ones_like(tau, dtype=torch.bool)
        )
        return masks

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        masks, binds = ctx.saved_tensors
        is_free = (masks > 0) & (masks < 1)
        gradient = gradient * is_free
        n_free = is_free.sum(2, keepdim=True).clamp(min=1)
        shared = (gradient.sum(2, keepdim=True) / n_free) * binds[..., None]
        return (gradient - shared * is_free).sum(1), None, None
