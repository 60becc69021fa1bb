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

from explainers.rules.moments.activations import activations
from explainers.rules.moments.blocks import alike, blocks, row_blocks
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
    slope: Tensor | None = None,
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
        torch.threshold_(slope, -0.1 / math.sqrt(kind.tiny), 0.0)


class _Rectified(torch.autograd.Function):
    """Mean and variance of independent values behind ReLU."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        is_needed = any(ctx.needs_input_grad)
        found = [torch.empty_like(mean) for _ in range(3 + is_needed)]
        for given, made in blocks([mean, alike(variance, mean)], found):
            _normal(*given, *made, is_gain=False)
        expected, spread, *others = found
        if is_needed:
            ctx.save_for_backward(expected, *others)
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
    """Mean behind ReLU, and the rows of a factor multiplied by the gate; keeps the rows before."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, factor: Tensor, form: Form, name: str
    ) -> tuple[Tensor, Tensor]:
        variance, expected, gain, without, slope = (torch.empty_like(mean) for _ in range(5))
        gated = torch.empty_like(factor)
        shared = [mean, variance, expected, gain, without, slope]
        for (before, behind), parts in row_blocks(form, name, [factor, gated], shared):
            torch.sum(before * before, 1, keepdim=True, out=parts[1])
            _normal(*parts, is_gain=True)
            torch.mul(before, parts[3], out=behind)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(mean, factor, variance, gain, slope)
            ctx.form, ctx.name = form, name
        return expected, gated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_gated: Tensor) -> tuple[Tensor | None, ...]:
        mean, factor, variance, gain, slope = ctx.saved_tensors
        to_mean, to_factor = torch.empty_like(mean), torch.empty_like(factor)
        rows = [factor, alike(of_gated, factor), to_factor]
        shared = [mean, variance, gain, slope, alike(of_mean, mean), to_mean]
        for (before, given, inward), parts in row_blocks(ctx.form, ctx.name, rows, shared):
            of_gain = (before * given).sum(1, keepdim=True)
            of_variance = _gate_slopes(of_gain, *parts)
            torch.mul(given, parts[2], out=inward).addcmul_(before, of_variance, value=2)
        return to_mean, to_factor, None, None


def _gate_slopes(
    of_gain: Tensor,
    mean: Tensor,
    variance: Tensor,
    gain: Tensor,
    slope: Tensor,
    of_mean: Tensor,
    to_mean: Tensor,
) -> Tensor:
    """Compute the derivative in the mean, and return that in the variance."""
    falling = slope * (-1 / math.sqrt(math.pi))
    torch.mul(of_mean, gain, out=to_mean).addcmul_(of_gain, falling)
    # bounded like z, so that where nearly nothing varies there is no infinity to be multiplied by 0
    divisor = variance.sqrt().clamp_min_(math.sqrt(torch.finfo(variance.dtype).tiny))
    far = _FAR.get(mean.dtype, 12.0)
    shift = torch.div(mean, divisor).clamp_(-far, far).mul_(falling).div_(divisor)
    return torch.addcmul(of_mean * falling, of_gain, shift, value=-1).mul_(0.5)


@activations.rule("relu", name="variance")
def activated(op: Operator, value: Moments, form: Form) -> Moments:
    """Take the moments behind ReLU."""
    return Moments(*_Rectified.apply(value.mean, value.uncertainty))


@activations.rule("relu", name="factor")
def activated_rows(op: Operator, value: Moments, form: Form) -> Moments:
    """Multiply rows by the probability that the value passes."""
    source = op.inputs[0]
    return Moments(*_Gated.apply(value.mean, value.uncertainty, form, source))
