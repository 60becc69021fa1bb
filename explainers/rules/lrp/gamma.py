"""LRP rule ``gamma``: positive contributions count more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Convolution, Linear
from explainers.rules.amounts import per_row
from explainers.rules.lrp.parameters import check_gamma
from explainers.rules.lrp.sharing import Absorbed, divided, kept_by_bias
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising
from explainers.rules.lrp.table import lrp
from explainers.rules.lrp.weights import ZeroParams, absolute_weight, output_without, without
from explainers.rules.repeated import derived
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.lrp.weights import Weighted
    from explainers.rules.table import Values

    Sums = tuple[Tensor, Tensor, Tensor]
    """Outputs, half gamma times the sums of magnitudes, and the signs of outputs."""


@lrp.rule(Convolution, Linear, name="gamma", conserves=False, check=check_gamma)
def gamma(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    gamma: float = 0.25,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share by contributions of which those with the output's sign count ``1 + gamma`` times.

    Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10, for inputs of either sign as in
    Andéol et al. 2021, arXiv:2106.13200 (zennit): with contributions ``c = x W`` (and the bias as
    one more) the denominators are ``sum(c + gamma * c+)`` where ``z > 0`` and
    ``sum(c + gamma * c-)`` where ``z < 0``, and outputs of exactly zero lose their relevance,
    whatever contributed to them. The sign is that of the operator's own output, also where
    `zero_params` leaves out its bias.

    As ``c+ = (c + abs(c)) / 2``, both are ``(1 + gamma / 2) z + (gamma / 2) sgn(z) abs(x) abs(W)``:
    one map more than the operator's own output, and two transposed maps, of W and of its absolute
    value, serve all four pairs of signs. In it nothing cancels that does not in the definition.
    """
    return _gamma(op, relevance, values, gamma, (stabiliser, zero_params), is_signed=True)


@lrp.rule(Convolution, Linear, name="gamma.nonnegative", conserves=False, check=check_gamma)
def gamma_of_nonnegative(
    op: Convolution | Linear,
    relevance: Tensor,
    values: Values,
    gamma: float = 0.25,
    stabiliser: Stabilising = STABILISER,
    zero_params: ZeroParams = (),
) -> Shares:
    """Share as `gamma` does, where ``abs(x) = x``."""
    return _gamma(op, relevance, values, gamma, (stabiliser, zero_params), is_signed=False)


def _gamma(
    op: Weighted,
    relevance: Tensor,
    values: Values,
    gamma: float,
    common: tuple[Stabilising, ZeroParams],
    *,
    is_signed: bool,
) -> Shares:
    check_gamma(gamma)
    used = without(op, common[1])
    x, z = values[op.inputs[0]], output_without(op, used, values)
    magnitude = x.abs() if is_signed else x
    size = None if used.bias is None else used.bias.detach().abs()

    def magnitudes(of: Values) -> Tensor:
        own = magnitude if of is values else of[op.inputs[0]].abs()
        return used.linear(own, absolute_weight(used), size)

    sizes = derived(values, (op, "magnitudes", used), magnitudes).mul_(gamma / 2)
    stabiliser, sign = Stabiliser.of(common[0]), values[op.name].sgn()
    divide = _divided if used is op and not stabiliser.norm_scale else _divided_apart
    share, signed, absorbed = divide(op, relevance, (z, sizes, sign), gamma, stabiliser)
    back = used.transpose(share, x).mul_(1 + gamma / 2)
    of_sizes = used.transpose(signed, x, absolute_weight(used))
    if is_signed:
        back.mul_(x).addcmul_(of_sizes, magnitude, value=gamma / 2)
    else:
        back.add_(of_sizes, alpha=gamma / 2).mul_(x)
    if used.bias is not None and size is not None:
        absorbed["bias"] = kept_by_bias(op, share, used.bias.detach()).mul_(1 + gamma / 2)
        absorbed["bias"] += kept_by_bias(op, signed, size).mul_(gamma / 2)
    return Shares((back,), absorbed)


def _divided(
    op: Weighted, relevance: Tensor, sums: Sums, gamma: float, stabiliser: Stabiliser
) -> tuple[Tensor, Tensor, Absorbed]:
    """Return ``s``, ``s * sgn(z)`` and what is kept; sizes and signs are overwritten."""
    z, sizes, sign = sums
    total = sizes.mul_(sign).add_(z, alpha=1 + gamma / 2)
    share, absorbed = divided(op, relevance, total, stabiliser)
    signed = share.mul_(sign)  # zero where z is
    return sign.mul_(signed), signed, absorbed


def _divided_apart(
    op: Weighted, relevance: Tensor, sums: Sums, gamma: float, stabiliser: Stabiliser
) -> tuple[Tensor, Tensor, Absorbed]:
    """Return what `_divided` does, where denominators depend on more than the output's own sign."""
    z, sizes, sign = sums
    linear = z * (1 + gamma / 2)
    above, kept = divided(op, relevance * (sign > 0), linear + sizes, stabiliser)
    below, more = divided(op, relevance * (sign < 0), linear - sizes, stabiliser)
    absorbed: Absorbed = {keeper: amount + more[keeper] for keeper, amount in kept.items()}
    absorbed["lost"] += per_row(op, relevance * (sign == 0))
    return above + below, above - below, absorbed
