"""Moments behind smooth activations, by quadrature.

E[g(m + sigma t)] = sum_i w_i g(m + sigma t_i) over the nodes t_i of a standard normal: those of
Gauss-Hermite, exact where g is a polynomial of degree 63 or less (Golub and Welsch 1969,
doi:10.2307/2004418); for functions with a kink or a steep step those of Gauss-Legendre on either
side of it. Derivatives are those of the sums, or of the integrals that these are as good as.

Relative to the deviation of the value, respectively to its variance, means and variances are right
to 1e-5 for the functions of `_BROKEN` (5e-3 for deviations of 20); for the others, of which gelu is
the worst, to 5e-3 for deviations of up to 2 and 2e-2 up to 20. Functions that grow or swing without
end, exp, sinh, cosh, sin and cos, are right for deviations of up to 2 alone.

Sums are of differences to f(m); where sigma is so small that such differences would be rounding,
moments are those of the tangent at m, unless a kink is near.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch

from explainers.rules.moments.activations import activations
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.known import Known, known, least_deviation
from explainers.rules.moments.normal import density
from explainers.rules.moments.refusing import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.operators import Activation, Operator, Unary
    from explainers.rules.moments.forms import Form

N_NODES = 32
N_NODES_BESIDE = 20
"""On either side of a break."""
_ROUNDING = 1e4
"""So many times a value's rounding is the least deviation for which differences are taken: they
then are right to 1e-4, and the tangent's error is smaller still."""

_FAR = 6.5
"""Deviations from the mean beyond which next to nothing of a Gaussian is."""
_BROKEN = ("elu", "selu", "celu", "sigmoid", "tanh", "erf", "atan")
"""Functions with a kink, or a step that may be short against a deviation, at zero."""

_WORDS = (
    *("gelu", "silu", "sigmoid", "tanh", "softplus", "mish", "log_sigmoid"),
    *("elu", "selu", "celu", "exp", "expm1", "erf", "sin", "cos", "sinh", "cosh"),
    *("atan", "square", "pow"),
)
"""Functions that are continuous, and defined for all real numbers, as a Gaussian value needs."""


class Function(Protocol):
    """A function of each value alone."""

    def run(self, value: Tensor, /) -> Tensor:
        """Return its values."""


@functools.lru_cache(maxsize=1)
def _hermite() -> tuple[tuple[float, float], ...]:
    import numpy

    nodes, weights = numpy.polynomial.hermite_e.hermegauss(N_NODES)
    shares = weights / weights.sum()
    return tuple(zip(nodes.tolist(), shares.tolist(), strict=True))


@functools.lru_cache(maxsize=1)
def _legendre() -> tuple[tuple[float, float], ...]:
    """Return nodes in -1 to 1, with weights for integrals of a density."""
    import numpy

    nodes, weights = numpy.polynomial.legendre.leggauss(N_NODES_BESIDE)
    return tuple(zip(nodes.tolist(), weights.tolist(), strict=True))


@activations.rule(*_WORDS, name="variance")
def activated(op: Activation | Unary, value: Moments, form: Form) -> Moments:
    """Take the moments behind the function."""
    check(op, form)
    return Moments(*known(partial(of_variance, op), value.mean, value.uncertainty))


@activations.rule(*_WORDS, name="factor")
def activated_rows(op: Activation | Unary, value: Moments, form: Form) -> Moments:
    """Multiply rows by the expected slope."""
    check(op, form)
    source, rows = op.inputs[0], value.uncertainty
    mean, gain = known(partial(of_factor, op), value.mean, form.variance(source, rows))
    return Moments(mean, form.spread_over(source, gain, rows))


def check(op: Operator, form: Form) -> None:
    """Refuse powers that a Gaussian value does not have.

    Raises
    ------
    NotImplementedError
        If the exponent is not a whole number of at least zero.
    """
    if getattr(op, "word", "") != "pow":
        return
    exponent = op.arguments[-1]  # type: ignore[attr-defined]
    if not isinstance(exponent, int | float) or exponent < 0 or exponent != int(exponent):
        refuse(op, form.kind, f"the exponent {exponent!r} (expected a whole number, at least 0)")


def _slopes(op: Function, at: Tensor, order: int) -> list[Tensor]:
    """Return f, f' and so on, up to the order."""
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        found = [op.run(leaf)]
        for position in range(order):
            if not found[-1].requires_grad:
                found.append(torch.zeros_like(at))
                continue
            is_inner = position + 1 < order
            (slope,) = torch.autograd.grad(found[-1].sum(), leaf, create_graph=is_inner)
            found.append(slope)
    # torch's second derivative of mish is 0 * inf far out
    return [found[0].detach(), *(slope.detach().nan_to_num(0.0) for slope in found[1:])]


class _Sums:
    """Weighted sums over the nodes, by name; a Python loop, so that memory does not grow."""

    def __init__(self, op: Function, mean: Tensor, variance: Tensor) -> None:
        self.mean, self.deviation = mean, variance.sqrt()
        self._op, self._variance = op, variance
        self.plain = op.run(mean)
        eps = torch.finfo(mean.dtype).eps
        self._break = self._to_break()
        self.is_small = self.deviation <= _ROUNDING * eps * mean.abs().clamp(min=1.0)
        if self._break is not None:
            self.is_small &= self._break.abs() >= _FAR
        self.is_small |= self.deviation <= least_deviation(mean.dtype)
        self.per_variance = 0.5 / self.deviation.masked_fill(self.is_small, 1.0)

    def over(self, order: int, *products: tuple[int, int, int]) -> list[Tensor]:
        """Return E[(f - f(m))^a g t^b] for each (a, order of g, b).

        Order 0 of g stands for f - f(m), 1 for f' and so on, and -1, beside a = 1, for one.
        """
        sums = [torch.zeros_like(self.mean) for _ in products]
        for node, weight in self._nodes():
            at = self.mean + self.deviation * node
            values = _slopes(self._op, at, order)
            difference = values[0] - self.plain
            for total, (power, of_order, degree) in zip(sums, products, strict=True):
                factor = difference if power else values[of_order]
                scaled = factor * (weight * node**degree)
                if power and of_order >= 0:
                    total.addcmul_(scaled, difference if of_order == 0 else values[of_order])
                else:
                    total.add_(scaled)
        return sums

    def _to_break(self) -> Tensor | None:
        """Return where the function breaks, in deviations from the mean."""
        op = self._op
        if (getattr(op, "kind", None) or getattr(op, "word", None)) not in _BROKEN:
            return None
        # 0 / 0 where a certain value is there
        return (-self.mean / self.deviation).nan_to_num(0.0).clamp_(-_FAR, _FAR)

    def _nodes(self) -> Iterator[tuple[Tensor | float, Tensor | float]]:
        if self._break is None:
            yield from _hermite()
            return
        for end in (-_FAR, _FAR):
            middle, half = (self._break + end) / 2, (self._break - end).abs_() / 2
            for node, weight in _legendre():
                at = torch.add(middle, half, alpha=node)
                yield at, density(at).mul_(half).mul_(weight)

    def chosen(self, small: Tensor, large: Tensor) -> Tensor:
        """Return the tangent's result where sigma is small."""
        return torch.where(self.is_small, small, large)

    def tangent(self, order: int) -> list[Tensor]:
        """Return f', f'' ... at m."""
        return _slopes(self._op, self.mean, order)[1:]


def of_variance(op: Function, mean: Tensor, variance: Tensor, is_wanted: bool) -> Known:
    """Return E[f] and Var[f]."""
    sums = _Sums(op, mean, variance)
    first = (1, -1, 0), (1, 0, 0)
    if not is_wanted:
        shift, square = sums.over(0, *first)
        (slope,) = sums.tangent(1)
        spread = sums.chosen(slope.square() * variance, (square - shift.square()).clamp_(min=0))
        values = (sums.plain + shift, spread)
        return Known(values, values, values)
    further = (0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)
    shift, square, gain, turned, both, both_turned = sums.over(1, *first, *further)
    slope, bend = sums.tangent(2)
    spread = sums.chosen(slope.square() * variance, (square - shift.square()).clamp_(min=0))
    half = sums.per_variance
    return Known(
        (sums.plain + shift, spread),
        (
            sums.chosen(slope, gain),
            2 * sums.chosen(slope * bend * variance, both - shift * gain),
        ),
        (
            sums.chosen(bend / 2, turned * half),
            sums.chosen(slope.square(), 2 * half * (both_turned - shift * turned)),
        ),
    )


def of_factor(op: Function, mean: Tensor, variance: Tensor, is_wanted: bool) -> Known:
    """Return E[f] and E[f'], as E[f t] / sigma: smoother than f', of which a kink makes a step."""
    sums = _Sums(op, mean, variance)
    first = (1, -1, 0), (1, -1, 1)
    half = sums.per_variance
    if not is_wanted:
        shift, lever = sums.over(0, *first)
        (slope,) = sums.tangent(1)
        values = (sums.plain + shift, sums.chosen(slope, 2 * half * lever))
        return Known(values, values, values)
    shift, lever, rise, turned, turned_twice = sums.over(1, *first, (0, 1, 0), (0, 1, 1), (0, 1, 2))
    slope, bend = sums.tangent(2)
    gain = 2 * half * lever
    further = 2 * half.square() * (turned_twice - gain)
    return Known(
        (sums.plain + shift, sums.chosen(slope, gain)),
        (sums.chosen(slope, rise), sums.chosen(bend, 2 * half * turned)),
        (
            sums.chosen(bend / 2, half * turned),
            sums.chosen(torch.zeros_like(mean), further),
        ),
    )
