"""LRP rule ``alpha_beta``: positive and negative contributions are shared apart."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from explainers.operators import Convolution, Linear
from explainers.rules.accounting import is_accounted
from explainers.rules.lrp.pairs import Pair, Single, sums_by_sign
from explainers.rules.lrp.parameters import check_alpha_beta
from explainers.rules.lrp.sharing import Absorbed, divided_by_sums
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising
from explainers.rules.lrp.table import lrp
from explainers.rules.lrp.weights import ZeroParams, positive_bias, without
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

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
    by_sign = Pair.of_signs(without(op, zero_params), values[op.inputs[0]])
    return _alpha_beta(by_sign, relevance, values, (alpha, beta), Stabiliser.of(stabiliser))


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
    single = Single(without(op, zero_params), values[op.inputs[0]])
    return _alpha_beta(single, relevance, values, (alpha, beta), Stabiliser.of(stabiliser))


def _alpha_beta(
    by_sign: Pair | Single,
    relevance: Tensor,
    values: Values,
    factors: tuple[float, float],
    stabiliser: Stabiliser,
) -> Shares:
    alpha, beta = factors
    check_alpha_beta(alpha, beta)
    share, absorbed = _part(by_sign, 1, relevance, values, stabiliser)
    other, more = _part(by_sign, -1, relevance, values, stabiliser) if beta else (None, {})
    back = by_sign.transpose(share, other, -beta / alpha)
    if alpha != 1:
        back.mul_(alpha)
    if not is_accounted(values):
        return Shares((back,))
    kept = {
        keeper: alpha * amount - beta * more[keeper] if more else alpha * amount
        for keeper, amount in absorbed.items()
    }
    return Shares((back,), kept)


def _part(
    by_sign: Pair | Single, sign: int, relevance: Tensor, values: Values, stabiliser: Stabiliser
) -> tuple[Tensor, Absorbed]:
    """Return ``R / stab(abs(z))`` of a sign's contributions, and what is kept of it."""
    op = by_sign.op
    bias = positive_bias(op, sign)
    sums = partial(sums_by_sign, by_sign, sign, values=values, key=stabiliser)
    with_account = is_accounted(values)
    return divided_by_sums(op, relevance, sums, bias, stabiliser, with_account=with_account)
