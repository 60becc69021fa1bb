"""Moments behind ReLU, in closed form, with closed derivatives.

With ``z = m / sigma``, ``a = |z|``, ``phi`` and ``Phi`` density and distribution of the standard
normal, ``Q = Phi(-a)`` and ``h = phi - a Q`` the mean is ``max(m, 0) + sigma h`` and the variance
``v (Phi(z) - h (a + h))``, which equals ``E[y^2] - E[y]^2`` (Frey and Hinton 1999,
doi:10.1162/089976699300016872) without the difference of large numbers. A factor is multiplied
by ``E[relu'] = Phi(z)``, the covariance's first order (Stein 1981, doi:10.1214/aos/1176345632).
Derivatives: ``dE/dm = Phi``, ``dE/dv = phi / (2 sigma)``, ``dV/dm = 2 E (1 - Phi)``,
``dV/dv = Phi - E phi / sigma``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from explainers.rules.moments.activations import activations
from explainers.rules.moments.forms import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Operator
    from explainers.rules.moments.forms import Form

_FAR = {torch.float32: 12.0, torch.float64: 36.0}
"""Beyond so many standard deviations ReLU is taken at: densities are no normal numbers further
out, and what the mean gets there is below rounding."""


def standardised(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``m / sigma``, bounded, and ``1 / sigma``, finite where the variance is zero."""
    inverse = variance.clamp_min(torch.finfo(variance.dtype).tiny).rsqrt_()
    far = _FAR.get(mean.dtype, 12.0)
    return (mean * inverse).clamp_(-far, far), inverse


def _normal(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return E, ``1 - Phi(z)``, ``phi / sigma`` (0 where that is 0) and ``h (a + h)``."""
    z, inverse = standardised(mean, variance)
    density = (z * z).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    away = z.abs()
    tail = torch.erfc(away * math.sqrt(0.5)).mul_(0.5)
    excess = torch.addcmul(density, away, tail, value=-1)
    sigma = variance * inverse
    expected = torch.addcmul(mean.clamp_min(0), sigma, excess)
    without = torch.where(z > 0, tail, 1 - tail)
    # the mean has no derivative in the variance where value and variance are zero
    slope = density.mul_(inverse).masked_fill_(variance == 0, 0)
    return expected, without, slope, away.add_(excess).mul_(excess)


class _Rectified(torch.autograd.Function):
    """Mean and variance of independent values behind ReLU."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        expected, without, slope, lost = _normal(mean, variance)
        spread = lost.add_(without).neg_().add_(1).mul_(variance)
        ctx.save_for_backward(expected, without, slope)
        return expected, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_spread: Tensor) -> tuple[Tensor, Tensor]:
        expected, without, slope = ctx.saved_tensors
        inward = torch.addcmul(of_mean, of_spread, expected, value=-2)
        to_mean = torch.addcmul(of_mean, inward, without, value=-1)
        to_spread = torch.addcmul(of_spread, of_spread, without, value=-1)
        return to_mean, to_spread.addcmul_(inward, slope, value=0.5)


class _Gated(torch.autograd.Function):
    """Mean behind ReLU, and by how much rows of a factor are multiplied, from mean and variance."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        expected, without, slope, _ = _normal(mean, variance)
        gain = 1 - without
        ctx.save_for_backward(mean, variance, gain, slope)
        return expected, gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_gain: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance, gain, slope = ctx.saved_tensors
        to_mean = torch.addcmul(of_mean * gain, of_gain, slope)
        per_variance = mean / variance.clamp_min(torch.finfo(variance.dtype).tiny)
        return to_mean, torch.addcmul(of_mean, of_gain, per_variance, value=-1) * slope * 0.5


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
