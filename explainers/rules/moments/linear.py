"""Moments behind linear operators: exact in both forms, for independent values in ``variance``.

``y = W x + b``: the mean is ``W m + b``, a factor ``L`` becomes ``W L``, and of independent values
with variances ``v`` the variances are ``W^2 v``, elementwise squared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import once_differentiable

from explainers.operators import Add, Affine, Concat, Convolution, Linear, Operator, Reshape
from explainers.rules.moments import tiles
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.table import moments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.moments.forms import Form

_SQUARED: WeakKeyDictionary[Operator, Tensor] = WeakKeyDictionary()
_TILED: WeakKeyDictionary[Operator, dict[tuple[bool, int], Tensor]] = WeakKeyDictionary()


def squared_weight(op: Convolution | Linear) -> Tensor:
    """Return the squared weights of an operator; they are computed once."""
    if op not in _SQUARED:
        _SQUARED[op] = op.weight.detach().square()
    return _SQUARED[op]


def _tiled(op: Convolution, side: int, *, is_squared: bool) -> Tensor:
    made = _TILED.setdefault(op, {})
    if (is_squared, side) not in made:
        weight = squared_weight(op) if is_squared else op.weight.detach()
        made[is_squared, side] = tiles.tiled(weight, side)
    return made[is_squared, side]


class _Weighted(torch.autograd.Function):
    """``W x + b`` with fixed weights, or ``W^2 x``; of ``x`` nothing is kept but its shape."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, op: Convolution | Linear, part: Literal["all", "rows", "squares"]
    ) -> Tensor:
        ctx.op, ctx.is_squared = op, part == "squares"
        ctx.shape, ctx.strides = value.shape, value.stride()
        weight = squared_weight(op) if part == "squares" else op.weight
        return op.linear(value, weight, op.bias if part == "all" else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        op = ctx.op
        if isinstance(op, Convolution):
            side = tiles.tile_of(op, tuple(ctx.shape[2:]))
            if side > 1:
                kernels = _tiled(op, side, is_squared=ctx.is_squared)
                return tiles.transposed(op, slope, kernels, side), None, None
        weight = squared_weight(op) if ctx.is_squared else op.weight
        # only its shape and layout are read, so that its memory is never touched
        like = torch.empty_strided(ctx.shape, ctx.strides, dtype=slope.dtype, device=slope.device)
        return op.transpose(slope, like, weight), None, None


@moments.rule(Convolution, Linear, name="variance")
def weighted(op: Convolution | Linear, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Square the weights for variances."""
    (value,) = inputs
    mean = _Weighted.apply(value.mean, op, "all")
    return Moments(mean, _Weighted.apply(value.uncertainty, op, "squares"))


@moments.rule(Convolution, Linear, name="factor")
def weighted_rows(op: Convolution | Linear, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Take the rows of the factor as further samples, without the bias."""
    (value,) = inputs
    mean = _Weighted.apply(value.mean, op, "all")
    return Moments(mean, _Weighted.apply(value.uncertainty, op, "rows"))


@moments.rule(Reshape, name="variance")
@moments.rule(Reshape, name="factor")
def moved(op: Reshape, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Move the spread as the values: values that are repeated, or dropped, keep theirs."""
    mean = op.run(*(part.mean for part in inputs))
    # sizes that follow the batch are read off the network's input, whose spread has as many rows
    parts = [part.mean if part.spread is None else part.spread for part in inputs]
    return Moments(mean, op.run(*parts))


@moments.rule(Affine, name="variance")
@moments.rule(Affine, name="factor")
def scaled(op: Affine, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Multiply rows by the scale, variances by its square; the shift moves the mean alone."""
    (value,) = inputs
    mean = op.run(value.mean)
    if op.scale is None or value.spread is None:
        return Moments(mean, value.spread)
    scale = op.scale.square() if form.kind == "variance" else op.scale
    return Moments(mean, value.spread * scale)


@moments.rule(Add, name="variance")
@moments.rule(Add, name="factor")
def added(op: Add, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Add the spreads: rows keep how both summands vary together, variances do not.

    Of different values that both depend on ``x``, as at the end of a residual block, the variance
    of the sum is therefore wrong by twice the covariance; a value that is added to itself is known
    to be the same.
    """
    first, second = inputs
    mean = op.run(first.mean, second.mean)
    if op.inputs[0] == op.inputs[1] and first.spread is not None:
        twice = 1 + op.alpha
        return Moments(mean, first.spread * (twice**2 if form.kind == "variance" else twice))
    scale = op.alpha**2 if form.kind == "variance" else op.alpha
    if second.spread is None:
        return Moments(mean, _enlarged(op, first.spread, mean, form))
    scaled_spread = second.spread if scale == 1.0 else second.spread * scale
    if first.spread is None:
        return Moments(mean, _enlarged(op, scaled_spread, mean, form))
    return Moments(mean, first.spread + scaled_spread)


def _enlarged(op: Operator, spread: Tensor | None, mean: Tensor, form: Form) -> Tensor | None:
    """Return the spread repeated to where broadcasting repeats the value."""
    if spread is None:
        return None
    shape = list(mean.shape)
    shape[op.batch_axis] *= form.n_factors
    return spread.expand(shape)


@moments.rule(Concat, name="variance")
@moments.rule(Concat, name="factor")
def joined(op: Concat, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Join the spreads; what is certain has none."""
    mean = op.run(*(part.mean for part in inputs))
    spreads = []
    for part in inputs:
        if part.spread is not None:
            spreads.append(part.spread)
            continue
        shape = list(part.mean.shape)
        shape[op.batch_axis] *= form.n_factors
        spreads.append(torch.zeros(shape, dtype=mean.dtype, device=mean.device))
    return Moments(mean, torch.cat(spreads, op.dim))
