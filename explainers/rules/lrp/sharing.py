"""Relevance divided by a denominator, with an account of what is kept back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from explainers.operators import Linear
from explainers.rules.table import Keeper, Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.lrp.stabiliser import Stabiliser
    from explainers.rules.lrp.weights import Weighted

Absorbed: TypeAlias = dict[Keeper, "Tensor"]
"""Amounts of relevance, ``(batch,)``, by what keeps them."""


def per_sample(amounts: Tensor, batch_axis: int = 0) -> Tensor:
    """Return the sum over all axes but that of the batch."""
    axes = tuple(axis for axis in range(amounts.ndim) if axis != batch_axis)
    return amounts.sum(axes) if axes else amounts


def divided(relevance: Tensor, z: Tensor, stabiliser: Stabiliser) -> tuple[Tensor, Absorbed]:
    """Return ``s = R / stab(z)`` and what stabiliser and empty outputs keep.

    The stabiliser keeps ``s * (stab(z) - z)``. Where z is exactly zero that is all of R, and counts
    as lost: nothing contributes, or what contributes cancels.

    Parameters
    ----------
    relevance
        Of the outputs.
    z
        Denominators, broadcast; left as they are.
    stabiliser
        Keeps them from zero.
    """
    part = stabiliser.part(z)
    total = z + part
    share = relevance / total
    lost = per_sample(torch.eq(z, 0, out=torch.empty_like(z)) * relevance)
    if not stabiliser.may_vanish:
        kept = per_sample(share * part)
        return share, {"stabiliser": kept - lost, "lost": lost}
    is_zero = total == 0
    share.masked_fill_(is_zero, 0)
    kept = per_sample(share * part) + per_sample(relevance * is_zero)
    return share, {"stabiliser": kept - lost, "lost": lost}


def divided_by_sums_of(
    sign: int, relevance: Tensor, z: Tensor, stabiliser: Stabiliser
) -> tuple[Tensor, Absorbed]:
    """Return what `divided` does, for sums of terms of one sign; z is overwritten.

    Convolution kernels that round such sums beyond zero (Winograd) are put right: there, the sign
    of a stabiliser would turn small shares into huge ones.
    """
    z = z.clamp_(min=0) if sign > 0 else z.clamp_(max=0)
    if not stabiliser.is_constant:
        return divided(relevance, z, stabiliser)
    lost = per_sample(torch.eq(z, 0, out=torch.empty_like(z)) * relevance)
    total = z.add_(sign * stabiliser.epsilon)
    share = torch.div(relevance, total, out=total if total.shape == relevance.shape else None)
    kept = per_sample(share) * (sign * stabiliser.epsilon)
    return share, {"stabiliser": kept - lost, "lost": lost}


def kept_by_bias(op: Weighted, share: Tensor, bias: Tensor) -> Tensor:
    """Return ``sum(s * b)`` of each sample; the sum over places comes first."""
    if isinstance(op, Linear):
        return per_sample(share @ bias)
    return share.sum(tuple(range(2, share.ndim))) @ bias


def accounted(
    op: Weighted, back: Tensor, share: Tensor, bias: Tensor | None, absorbed: Absorbed
) -> Shares:
    """Return the input's relevance with what bias, stabiliser and empty outputs keep."""
    if bias is not None:
        absorbed = {**absorbed, "bias": kept_by_bias(op, share, bias.detach())}
    return Shares((back,), absorbed)
