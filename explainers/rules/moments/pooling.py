"""Moments behind average pools: every window divides by what it really divides by."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from explainers.operators import AveragePool
from explainers.rules.gradient import gradient
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.table import moments
from explainers.rules.moments.windows import adaptive_bounds, n_windows

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.moments.forms import Form


class _Averaged(torch.autograd.Function):
    """The means of windows; nothing is kept for the derivative but the shape of the values."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, op: AveragePool) -> Tensor:
        ctx.op, ctx.shape, ctx.strides = op, value.shape, value.stride()
        return op.run(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        # only its shape and layout are read, so that its memory is never touched
        like = torch.empty_strided(ctx.shape, ctx.strides, dtype=slope.dtype, device=slope.device)
        (found,) = gradient.find(ctx.op)(ctx.op, slope, {ctx.op.inputs[0]: like})
        return found, None


@moments.rule(AveragePool, name="variance")
def averaged(op: AveragePool, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Average the variances and divide once more: ``sum v / n^2``, n that of each window."""
    (value,) = inputs
    spread = _Averaged.apply(value.uncertainty, op)
    found = _divisors(op, value.mean)
    divisors = _product(found, like=spread) if isinstance(found, tuple) else found
    return Moments(_Averaged.apply(value.mean, op), spread / divisors)


@moments.rule(AveragePool, name="factor")
def averaged_rows(op: AveragePool, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Average the rows."""
    (value,) = inputs
    return Moments(_Averaged.apply(value.mean, op), _Averaged.apply(value.uncertainty, op))


def _divisors(op: AveragePool, value: Tensor) -> float | tuple[tuple[int, ...], ...]:
    """Return what windows divide by: one number, or factors of it place by place of each axis."""
    if op.form == "mean":
        return math.prod(value.shape[dim] for dim in op.dims)
    if op.divisor is not None:
        return op.divisor
    sizes = tuple(value.shape[-len(op.size) :])
    if op.form == "adaptive":
        counts = _adaptive_counts(sizes, op.size)
    else:
        geometry = (op.size, op.stride or op.size, op.padding)
        counts = _window_counts(sizes, *geometry, op.ceil_mode, op.count_include_pad)
    if all(len(set(axis)) == 1 for axis in counts):
        return math.prod(axis[0] for axis in counts)
    return counts


@functools.lru_cache(maxsize=64)
def _adaptive_counts(
    sizes: tuple[int, ...], outputs: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Return the lengths of the windows along each axis."""
    return tuple(
        tuple(stop - start for start, stop in adaptive_bounds(size, n))
        for size, n in zip(sizes, outputs, strict=True)
    )


@functools.lru_cache(maxsize=64)
def _window_counts(
    sizes: tuple[int, ...],
    windows: tuple[int, ...],
    strides: tuple[int, ...],
    paddings: tuple[int, ...],
    is_ceil: bool,
    has_padding: bool,
) -> tuple[tuple[int, ...], ...]:
    """Return what counts along each axis, of each window; beyond the padding nothing does."""
    found = []
    for size, window, stride, padding in zip(sizes, windows, strides, paddings, strict=True):
        n = n_windows(size, window, stride, padding, is_ceil=is_ceil)
        starts = [place * stride - padding for place in range(n)]
        low, high = (-padding, size + padding) if has_padding else (0, size)
        found.append(tuple(min(start + window, high) - max(start, low) for start in starts))
    return tuple(found)


def _product(counts: tuple[tuple[int, ...], ...], like: Tensor) -> Tensor:
    """Return the product over the axes, to be broadcast over the last of a value."""
    product = torch.ones((), dtype=like.dtype, device=like.device)
    for counted in counts:
        axis = torch.tensor(counted, dtype=like.dtype, device=like.device)
        product = product.unsqueeze(-1) * axis
    return product
