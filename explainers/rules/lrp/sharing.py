"""Relevance divided by a denominator, with an account of what is kept back."""

from __future__ import annotations

import math
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
    op: Operator, relevance: Tensor, z: Tensor, stabiliser: Stabiliser
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
    """
    part = stabiliser.part(z, op.batch_axis)
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


def divided_by_sums(
    op: Weighted,
    relevance: Tensor,
    sums: Callable[[Tensor | None], Tensor],
    bias: Tensor | None,
    stabiliser: Stabiliser,
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
    """
    if not stabiliser.is_constant:
        share, absorbed = divided(op, relevance, sums(bias).clamp_(min=0), stabiliser)
        if bias is not None:
            absorbed["bias"] = by_output(op, share) @ bias
        return share, absorbed
    epsilon = stabiliser.epsilon
    n_outputs = relevance.shape[-1 if isinstance(op, Linear) else 1]
    constant = relevance.new_zeros(n_outputs) if bias is None else bias
    total = sums(constant + epsilon)
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
    unit = torch.finfo(total.dtype).eps
    below = float(torch.tensor(epsilon * (1 + 4 * unit), dtype=total.dtype))
    above = below * (1 + 0.75 * unit)  # rounds to the next number
    lost = per_row(op, _where_between(total, -math.inf, above, relevance))
    torch.threshold_(total, below, math.inf)
    share = torch.div(relevance, total, out=total if total.shape == relevance.shape else None)
    return share, lost


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
