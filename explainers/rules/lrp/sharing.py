"""Relevance divided by a denominator, with an account of what is kept back."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import torch

from explainers.operators import Linear
from explainers.rules.amounts import by_output, per_row
from explainers.rules.table import Keeper, Shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.operators import Operator
    from explainers.rules.lrp.stabiliser import Stabiliser
    from explainers.rules.lrp.weights import Weighted

Absorbed: TypeAlias = dict[Keeper, "Tensor"]
"""Amounts of relevance, of each row of the operator's value, by what keeps them."""


def divided(
    op: Operator,
    relevance: Tensor,
    z: Tensor,
    stabiliser: Stabiliser,
    *,
    with_account: bool = True,
) -> tuple[Tensor, Absorbed]:
    """Return ``s = R / stab(z)`` and what stabiliser and empty outputs keep.

    The stabiliser keeps ``s * (stab(z) - z)``. Where z is exactly zero that is all of R, and counts
    as lost: nothing contributes, or what contributes cancels.

    Parameters
    ----------
    op
        Whose outputs the relevance is of.
    relevance
        Of the outputs.
    z
        Denominators, broadcast; left as they are.
    stabiliser
        Keeps them from zero.
    with_account
        Whether anybody asks what is kept.
    """
    part = stabiliser.part(z, op.batch_axis)
    if not with_account:
        return _undivided_by_zero(relevance, part.add_(z), stabiliser), {}
    total = z + part
    smallest = torch.finfo(z.dtype).smallest_normal
    lost = per_row(op, _where_between(z, -smallest, smallest, relevance))
    is_zero = total == 0 if stabiliser.may_vanish else None
    share = torch.div(relevance, total, out=total if total.shape == relevance.shape else None)
    if is_zero is not None:
        share.masked_fill_(is_zero, 0)
    kept = per_row(op, torch.mul(share, part, out=part if part.shape == share.shape else None))
    if is_zero is not None:
        kept += per_row(op, relevance * is_zero)
    return share, {"stabiliser": kept - lost, "lost": lost}


def _undivided_by_zero(relevance: Tensor, total: Tensor, stabiliser: Stabiliser) -> Tensor:
    """Return ``R / stab(z)``, zero where that is zero; the denominators are overwritten."""
    if stabiliser.may_vanish:
        total.masked_fill_(total == 0, math.inf)
    return torch.div(relevance, total, out=total if total.shape == relevance.shape else None)


def divided_by_sums(
    op: Weighted,
    relevance: Tensor,
    sums: Callable[[Tensor | None], Tensor],
    bias: Tensor | None,
    stabiliser: Stabiliser,
    *,
    with_account: bool = True,
) -> tuple[Tensor, Absorbed]:
    """Return ``s = R / stab(z)`` for sums of nonnegative terms, and what is kept, by biases too.

    What nothing contributes to shares nothing, and loses its relevance. Convolution kernels that
    round such sums below zero (Winograd) are put right: the sign of a stabiliser would turn small
    shares into huge ones.

    Parameters
    ----------
    op
        Whose outputs the relevance is of.
    relevance
        Of the outputs.
    sums
        Gives ``z`` for the bias that is its last term; it is overwritten.
    bias
        None, or nonnegative.
    stabiliser
        Keeps denominators from zero; where it is constant it is added with the bias.
    with_account
        Whether anybody asks what is kept.
    """
    if not stabiliser.is_constant:
        z = sums(bias).clamp_(min=0)
        share, absorbed = divided(op, relevance, z, stabiliser, with_account=with_account)
        if bias is not None and with_account:
            absorbed["bias"] = by_output(op, share) @ bias
        return share, absorbed
    epsilon = stabiliser.epsilon
    n_outputs = relevance.shape[-1 if isinstance(op, Linear) else 1]
    constant = relevance.new_zeros(n_outputs) if bias is None else bias
    total = sums(constant + epsilon)
    if not with_account:
        return _shared_by_totals(relevance, total, epsilon), {}
    share, lost = divided_by_totals(op, relevance, total, epsilon)
    kept = by_output(op, share)
    absorbed = {"stabiliser": kept.sum(1).mul_(epsilon), "lost": lost}
    if bias is not None:
        absorbed["bias"] = kept @ bias
    return share, absorbed


def divided_by_totals(
    op: Operator, relevance: Tensor, total: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return ``R / (z + epsilon)``, zero where z is, and the amounts that are lost there.

    ``z + epsilon`` is given, and overwritten.
    """
    above = _below(total, epsilon) * (1 + 0.75 * torch.finfo(total.dtype).eps)  # the next number
    lost = per_row(op, _where_between(total, -math.inf, above, relevance))
    return _shared_by_totals(relevance, total, epsilon), lost


def _shared_by_totals(relevance: Tensor, total: Tensor, epsilon: float) -> Tensor:
    torch.threshold_(total, _below(total, epsilon), math.inf)
    return torch.div(relevance, total, out=total if total.shape == relevance.shape else None)


def _below(total: Tensor, epsilon: float) -> float:
    """Return the greatest ``z + epsilon`` at which z counts as zero."""
    return _rounded(epsilon * (1 + 4 * torch.finfo(total.dtype).eps), total.dtype)


@lru_cache(maxsize=64)
def _rounded(number: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(number, dtype=dtype))


def _where_between(z: Tensor, low: float, high: float, relevance: Tensor) -> Tensor:
    """Return R where ``low < z < high``, else zero: a comparison and a product in one pass."""
    found: Tensor = torch.ops.aten.hardtanh_backward(relevance, z, low, high)
    return found


def kept_by_bias(op: Weighted, share: Tensor, bias: Tensor) -> Tensor:
    """Return ``sum(s * b)`` of each row."""
    return by_output(op, share) @ bias


def accounted(
    op: Weighted, back: Tensor, share: Tensor, bias: Tensor | None, absorbed: Absorbed
) -> Shares:
    """Return the input's relevance with what bias, stabiliser and empty outputs keep."""
    if bias is not None:
        absorbed = {**absorbed, "bias": kept_by_bias(op, share, bias.detach())}
    return Shares((back,), absorbed)
