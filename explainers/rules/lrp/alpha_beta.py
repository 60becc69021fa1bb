"""LRP rule ``alpha_beta``: positive and negative contributions are shared apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Convolution, Linear
from explainers.rules.lrp.pairs import Pair
from explainers.rules.lrp.parameters import check_alpha_beta
from explainers.rules.lrp.sharing import Absorbed, divided_by_sums_of, kept_by_bias
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising
from explainers.rules.lrp.table import lrp
from explainers.rules.lrp.weights import (
    ZeroParams,
    negative_bias,
    negative_weight,
    positive_bias,
    positive_weight,
    without,
)
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.lrp.weights import Weighted
    from explainers.rules.table import Values


@lrp.rule(Convolution, Linear, name="alpha_beta", conserves=False, check=check_alpha_beta)
def alpha_beta(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    alpha: float = 2.0,
    beta: float = 1.0,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share ``alpha * R`` by positive and ``-beta * R`` by negative contribution.

    Bach et al. 2015, doi:10.1371/journal.pone.0130140. With ``zp = x+ W+ + x- W- + b+`` and
    ``zn = x+ W- + x- W+ + b-``: ``alpha * (x+ W+^T + x- W-^T) (R / stab(zp))
    - beta * (x+ W-^T + x- W+^T) (R / stab(zn))``. It hands on R only where both kinds of
    contributions are there: without a positive one ``alpha * R`` is lost, without a negative one
    ``-beta * R`` is, so that more than R is handed on; both count as lost, with their sign.
    """
    check_alpha_beta(alpha, beta)
    used = without(op, zero_params)
    by_sign = Pair.of_signs(used, values[op.inputs[0]])
    stabilises = Stabiliser.of(stabiliser)
    z = by_sign.linear(1, positive_bias(used))
    share, absorbed = _part(used, 1, alpha, relevance, z, stabilises)
    back = by_sign.transpose(1, share)
    if beta:
        z = by_sign.linear(-1, negative_bias(used))
        share, more = _part(used, -1, -beta, relevance, z, stabilises)
        back += by_sign.transpose(-1, share)
        absorbed = {keeper: amount + more[keeper] for keeper, amount in absorbed.items()}
    return Shares((back,), absorbed)


@lrp.rule(
    Convolution, Linear, name="alpha_beta.nonnegative", conserves=False, check=check_alpha_beta
)
def alpha_beta_of_nonnegative(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    alpha: float = 2.0,
    beta: float = 1.0,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share as `alpha_beta` does, where ``x- = 0``."""
    check_alpha_beta(alpha, beta)
    used = without(op, zero_params)
    x = values[op.inputs[0]]
    stabilises = Stabiliser.of(stabiliser)
    z = used.linear(x, positive_weight(used), positive_bias(used))
    share, absorbed = _part(used, 1, alpha, relevance, z, stabilises)
    back = used.transpose(share, x, positive_weight(used))
    if beta:
        z = used.linear(x, negative_weight(used), negative_bias(used))
        share, more = _part(used, -1, -beta, relevance, z, stabilises)
        back += used.transpose(share, x, negative_weight(used))
        absorbed = {keeper: amount + more[keeper] for keeper, amount in absorbed.items()}
    return Shares((back.mul_(x),), absorbed)


def _part(
    op: Weighted, sign: int, factor: float, relevance: Tensor, z: Tensor, stabiliser: Stabiliser
) -> tuple[Tensor, Absorbed]:
    """Return ``factor * R / stab(z)`` for the contributions of a sign, and what is kept of it."""
    share, absorbed = divided_by_sums_of(sign, relevance, z, stabiliser)
    bias = positive_bias(op) if sign > 0 else negative_bias(op)
    if bias is not None:
        absorbed["bias"] = kept_by_bias(op, share, bias)
    if factor != 1:
        share.mul_(factor)
        absorbed = {keeper: amount * factor for keeper, amount in absorbed.items()}
    return share, absorbed
