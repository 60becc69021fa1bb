"""Functions of mean and variance whose derivatives are computed beside them, and nothing else kept.

A value f(x) of a Gaussian x with mean m and variance v has (Stein 1981,
doi:10.1214/aos/1176345632)::

    d E[f] / dm = E[f']                 d E[f] / dv = E[f''] / 2
    d Var[f] / dm = 2 Cov[f, f']        d Var[f] / dv = E[f'^2] + Cov[f, f'']

so that the form ``factor``, whose rows are multiplied by E[f'], and the form ``variance`` need
the same few expectations. They are derivatives of first order, for `torch.autograd` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


def least_deviation(dtype: torch.dtype) -> float:
    """Return the deviation at or below which derivatives are those of a certain value.

    Second derivatives grow as its square falls; above it they leave room to be multiplied.
    """
    return float(torch.finfo(dtype).tiny ** 0.4)


class Known(NamedTuple):
    """Two values, and their derivatives by mean and variance; all shaped as the mean."""

    values: tuple[Tensor, Tensor]
    by_mean: tuple[Tensor, Tensor]
    by_variance: tuple[Tensor, Tensor]


Compute = Callable[["Tensor", "Tensor", bool], Known]
"""Given mean, variance and whether derivatives are wanted; they are left out (any) if not."""


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, variance: Tensor, compute: Compute
    ) -> tuple[Tensor, Tensor]:
        is_wanted = any(ctx.needs_input_grad[:2])
        found = compute(mean, variance, is_wanted)
        if is_wanted:
            ctx.save_for_backward(*found.by_mean, *found.by_variance)
        return found.values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, first: Tensor, second: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        saved = ctx.saved_tensors
        needed = ctx.needs_input_grad
        by_mean = torch.addcmul(first * saved[0], second, saved[1]) if needed[0] else None
        by_variance = torch.addcmul(first * saved[2], second, saved[3]) if needed[1] else None
        return by_mean, by_variance, None


def known(compute: Compute, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two values that `compute` gives, differentiable once in mean and variance."""
    found: tuple[Tensor, Tensor] = _Beside.apply(mean, variance, compute)
    return found
