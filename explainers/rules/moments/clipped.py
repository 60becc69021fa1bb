"""Moments behind activations made of straight lines and parabolas; see `piecewise`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from explainers.operators import Activation
from explainers.rules.moments.activations import activations
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.known import Known, known
from explainers.rules.moments.piecewise import Pieces, Truncated, clipped

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Unary
    from explainers.rules.moments.forms import Form

_WORDS = (
    *("hardtanh", "relu6", "clamp", "hardsigmoid"),
    *("hardswish", "leaky_relu", "abs"),
)


def pieces(op: Activation | Unary) -> Pieces:
    """Return the pieces of an operator's function."""
    word = op.kind if isinstance(op, Activation) else op.word
    given = op.parameters if isinstance(op, Activation) else ()
    if word in ("hardtanh", "clamp"):
        return clipped(*(given or (-1.0, 1.0)))
    if word == "relu6":
        return clipped(0.0, 6.0)
    if word == "hardsigmoid":
        return clipped(0.0, 1.0, slope=1 / 6, shift=0.5)
    if word == "hardswish":
        return Pieces((-3.0, 3.0), ((0.0, 0.0, 0.0), (0.0, 0.5, 1 / 6), (0.0, 1.0, 0.0)))
    (slope,) = (-1.0,) if word == "abs" else given or (0.01,)
    return Pieces((0.0,), ((0.0, slope, 0.0), (0.0, 1.0, 0.0)))


@activations.rule(*_WORDS, name="variance")
def activated(op: Activation | Unary, value: Moments, form: Form) -> Moments:
    """Take the moments behind the function, exactly."""
    return Moments(*known(partial(_computed, op, False), value.mean, value.uncertainty))


@activations.rule(*_WORDS, name="factor")
def activated_rows(op: Activation | Unary, value: Moments, form: Form) -> Moments:
    """Multiply rows by the expected slope."""
    source, rows = op.inputs[0], value.uncertainty
    compute = partial(_computed, op, True)
    mean, gain = known(compute, value.mean, form.variance(source, rows))
    return Moments(mean, form.spread_over(source, gain, rows))


def _computed(
    op: Activation | Unary, is_factor: bool, mean: Tensor, variance: Tensor, is_wanted: bool
) -> Known:
    of, plain = pieces(op), op.run(mean)
    if any(quadratic for _, _, quadratic in of.polynomials):
        # far from a parabola, its terms are large and their sum is small
        mean, variance = mean.double(), variance.double()
    found = Truncated(of, mean, variance, plain).known(is_factor=is_factor, is_wanted=is_wanted)
    return Known(*((one.to(plain.dtype), other.to(plain.dtype)) for one, other in found))
