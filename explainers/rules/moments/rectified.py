"""Moments behind ReLU, in closed form, with closed derivatives.

With ``z = m / sigma``, ``a = |z|``, ``phi`` and ``Phi`` density and distribution of the standard
normal, ``Q = Phi(-a)`` and ``h = phi - a Q`` the mean is ``E = max(m, 0) + sigma h`` and the
variance ``V = v (Phi(z) - h (a + h))``, which equals ``E[y^2] - E[y]^2`` (Frey and Hinton 1999,
doi:10.1162/089976699300016872) without the difference of large numbers. A factor is multiplied
by ``E[relu'] = Phi(z)``: its covariance to first order (Stein 1981, doi:10.1214/aos/1176345632).

Derivatives: ``dE/dm = Phi``, ``dE/dv = phi / (2 sigma)``, ``dV/dm = 2 E (1 - Phi)``,
``dV/dv = Phi - E phi / sigma``; ``dPhi/dm = phi / sigma``, ``dPhi/dv = -(m / v) phi / (2 sigma)``.
Where the variance is zero ``phi / sigma`` counts as zero, its limit but for a mean of zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from explainers.rules.moments.activations import activations
from explainers.rules.moments.blocks import alike, blocks
from explainers.rules.moments.forms import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Operator
    from explainers.rules.moments.forms import Form

_FAR = {torch.float32: 12.0, torch.float64: 36.0}
"""So many standard deviations are the most: densities further out are hardly normal numbers, and
what they would add is far below rounding."""
_DENSITY = 1 / math.sqrt(2 * math.pi)


def _normal(
    mean: Tensor,
    variance: Tensor,
    expected: Tensor,
    spread: Tensor,
    without: Tensor,
    slope: Tensor | None,
    *,
    is_gain: bool,
) -> None:
    """Compute what is needed of some values into given memory, with few passes over it.

    Neither a choice by `where`, which takes as long as ten other passes on a CPU, nor `ndtr`,
    which takes as long as ten of `erfc`.

    Parameters
    ----------
    mean, variance
        Of values before ReLU.
    expected
        Becomes E.
    spread
        Becomes V; or, with `is_gain`, Phi.
    without
        Becomes ``2 (1 - Phi)``.
    slope
        Becomes ``-sqrt(pi) phi / sigma``; None if it is not needed.
    """
    kind = torch.finfo(mean.dtype)
    far = _FAR.get(mean.dtype, 12.0) * math.sqrt(0.5)
    sigma = variance.sqrt()
    divisor = torch.mul(sigma, -math.sqrt(2)).clamp_max_(-math.sqrt(kind.tiny))
    passing = torch.div(mean, divisor).clamp_(-far, far)  # -z / sqrt(2)
    away = passing.neg()
    density = torch.mul(away, passing).exp_()  # sqrt(2 pi) phi
    torch.erfc(away, out=without)
    passing.erfc_()  # 2 Phi
    away.abs_()
    excess = torch.minimum(passing, without)  # 2 Q
    torch.addcmul(density, away, excess, value=-math.sqrt(math.pi), out=excess)
    torch.clamp_min(mean, 0, out=expected).addcmul_(sigma, excess, value=_DENSITY)
    torch.mul(passing, 0.5, out=spread)
    if not is_gain:
        # with H = sqrt(2 pi) h: h (a + h) = H (a / sqrt(2) + H / sqrt(4 pi)) / sqrt(pi)
        away.add_(excess, alpha=math.sqrt(0.25 / math.pi))
        spread.addcmul_(excess, away, value=-1 / math.sqrt(math.pi)).mul_(variance)
    if slope is not None:
        # what is divided by no variance at all becomes zero
        torch.div(density, divisor, out=slope)
        functional.threshold_(slope, -0.1 / math.sqrt(kind.tiny), 0.0)


def _computed(
    mean: Tensor, variance: Tensor, *, is_gain: bool, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return E, V or Phi, ``2 (1 - Phi)`` and ``-sqrt(pi) phi / sigma``."""
    found = [torch.empty_like(mean) for _ in range(3 + with_slope)]
    for given, made in blocks([mean, alike(variance, mean)], found):
        _normal(*given, *made[:3], made[3] if with_slope else None, is_gain=is_gain)
    return found[0], found[1], found[2], found[3] if with_slope else None


class _Rectified(torch.autograd.Function):
    """Mean and variance of independent values behind ReLU."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        is_needed = any(ctx.needs_input_grad)
        expected, spread, without, slope = _computed(
            mean, variance, is_gain=False, with_slope=is_needed
        )
        if is_needed:
            ctx.save_for_backward(expected, without, slope)
        return expected, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_spread: Tensor) -> tuple[Tensor, Tensor]:
        expected, without, slope = ctx.saved_tensors
        found = [torch.empty_like(expected) for _ in range(2)]
        slopes = [alike(of_mean, expected), alike(of_spread, expected)]
        for given, made in blocks([*slopes, expected, without, slope], found):
            first, second, value, without_it, falling = given
            to_mean, to_spread = made
            inward = torch.addcmul(first, second, value, value=-2)
            torch.addcmul(first, inward, without_it, value=-0.5, out=to_mean)
            torch.addcmul(second, second, without_it, value=-0.5, out=to_spread)
            to_spread.addcmul_(inward, falling, value=-0.5 / math.sqrt(math.pi))
        return found[0], found[1]


class _Gated(torch.autograd.Function):
    """Mean behind ReLU, and by how much rows of a factor are multiplied, from mean and variance."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        expected, gain, _, slope = _computed(mean, variance, is_gain=True, with_slope=True)
        ctx.save_for_backward(mean, variance, gain, slope)
        return expected, gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_gain: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance, gain, slope = ctx.saved_tensors
        to_mean = torch.addcmul(of_mean * gain, of_gain, slope, value=-1 / math.sqrt(math.pi))
        # m / v as a bounded z over sigma: what is infinite times a slope of 0 would be no number
        inverse = variance.clamp_min(torch.finfo(variance.dtype).tiny).rsqrt_()
        far = _FAR.get(mean.dtype, 12.0)
        shift = torch.mul(mean, inverse).clamp_(-far, far).mul_(inverse)
        inward = torch.addcmul(of_mean, of_gain, shift, value=-1)
        return to_mean, inward.mul_(slope).mul_(-0.5 / math.sqrt(math.pi))


@activations.rule("relu", name="variance")
def activated(op: Operator, value: Moments, form: Form) -> Moments:
    """Take the moments behind ReLU."""
    return Moments(*_Rectified.apply(value.mean, value.uncertainty))


@activations.rule("relu", name="factor")
def activated_rows(op: Operator, value: Moments, form: Form) -> Moments:
    """Multiply rows by the probability that the value passes."""
    source = op.inputs[0]
    mean, gain = _Gated.apply(value.mean, form.variance(source, value.uncertainty))
    return Moments(mean, form.spread_over(source, gain, value.uncertainty))
