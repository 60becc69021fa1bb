"""Moments behind max-pool: Clark's moments of two values, pair after pair in a tree.

Of two Gaussian values with means m1, m2 and s = Var[x1 - x2], with A = sqrt(s), a = (m1 - m2) / A
and h(a) = phi(a) - a Phi(-a) (Clark 1961, doi:10.1287/opre.9.2.145)::

    P[x1 > x2] = p = Phi(a)      E[max] = m1 + A h(a) = m2 + A h(-a)
    Var[max] = p v1 + (1 - p) v2 - s h(a) h(-a)        Cov[max, y] = p Cov[x1, y] + (1-p) Cov[x2, y]

which are Clark's, rid of differences of large numbers. For two values they are exact; in a tree the
larger of two is taken as Gaussian again, which makes means of four right to 0.1 % and variances up
to 20 % too small. In the form ``variance`` s = v1 + v2. In the form ``factor`` the maximum has the
rows ``p L1 + (1 - p) L2``, whose square sum lacks a part e of its variance; s is therefore
``sum_k (L1 - L2)^2 + e1 + e2``, which knows how the values of a window vary together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from explainers.operators import MaxPool
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.table import moments
from explainers.rules.moments.windows import with_margins

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.moments.forms import Form
    from explainers.rules.moments.windows import Chunk, Windows

_FAR = 40.0
"""Standard deviations beyond which a normal tail is exactly zero, in float64 too."""


class _Larger(torch.autograd.Function):
    """E[max], p and s h(a) h(-a), from m1, m2 and s; at no variance the first of equal values wins.

    Derivatives: ``dE/dm1 = p``, ``dE/ds = phi / 2A``, ``dp/dm1 = phi / A``,
    ``dp/ds = -a phi / 2s``, and with ``u = p h(a) - (1 - p) h(-a)`` of the last ``A u`` by m1 and
    ``h(a) h(-a) - a u / 2`` by s.
    """

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        inverse = s.clamp(min=torch.finfo(s.dtype).tiny).rsqrt_()
        a = ((first - second) * inverse).clamp_(-_FAR, _FAR)
        a.masked_fill_((s <= 0) & (first == second), _FAR)
        chance, other = _below(a), _below(-a)
        density = torch.exp(a.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))
        upper, lower = density - a * other, density + a * chance  # h(a), h(-a)
        deviation = s * inverse
        excess = torch.minimum(upper, lower).clamp_(min=0.0)
        largest = torch.addcmul(torch.maximum(first, second), deviation, excess)
        both = upper * lower
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(a, s)
        return largest, chance, s * both.clamp_(min=0.0)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_mean: Tensor, of_chance: Tensor, of_both: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        a, s = ctx.saved_tensors
        inverse = s.clamp(min=torch.finfo(s.dtype).tiny).rsqrt_()
        chance, other = _below(a), _below(-a)
        density = torch.exp(a.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))
        upper, lower = density - a * other, density + a * chance
        turn = chance * upper - other * lower
        steep = density * inverse
        moved = of_chance * steep + of_both * turn * s * inverse
        to_s = (of_mean - of_chance * a * inverse) * steep / 2
        to_s = to_s + of_both * (upper * lower - a * turn / 2)
        return of_mean * chance + moved, of_mean * other - moved, to_s


class _Apart(torch.autograd.Function):
    """Differences of rows, and their square sums; few passes over what has rows."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        apart = left - right
        ctx.save_for_backward(apart)
        return apart, (apart * apart).sum(axis, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_apart: Tensor, of_sum: Tensor) -> tuple[Tensor, Tensor, None]:
        (apart,) = ctx.saved_tensors
        slope = torch.addcmul(of_apart, apart, of_sum, value=2)
        return slope, -slope, None


def _below(at: Tensor) -> Tensor:
    # `ndtr` takes several times as long, and is no better in the tails
    return torch.erfc(at * -math.sqrt(0.5)).mul_(0.5)


class _Node(NamedTuple):
    """The larger of some values of every window."""

    mean: Tensor
    spread: Tensor
    lacking: Tensor | None
    """Of its variance, in the square sum of its rows."""


def _larger(left: _Node, right: _Node, axis: int | None) -> _Node:
    """Return the larger of two; `axis` is that of the rows, None in the form ``variance``."""
    if axis is None:
        mean, chance, less = _Larger.apply(left.mean, right.mean, left.spread + right.spread)
        variance = right.spread + chance * (left.spread - right.spread) - less
        return _Node(mean, variance.clamp(min=0.0), None)
    apart, between = _Apart.apply(left.spread, right.spread, axis)
    lacking = [
        zero if zero is not None else torch.zeros_like(between) for zero in (left[2], right[2])
    ]
    s = between + lacking[0] + lacking[1]
    mean, chance, less = _Larger.apply(left.mean, right.mean, s)
    other = 1 - chance
    missing = chance * lacking[0] + other * lacking[1] + chance * other * between - less
    return _Node(mean, torch.addcmul(right.spread, chance, apart), missing.clamp(min=0.0))


def _largest(means: list[Tensor], spreads: list[Tensor], axis: int | None) -> tuple[Tensor, Tensor]:
    nodes = [_Node(*pair, None) for pair in zip(means, spreads, strict=True)]
    while len(nodes) > 1:
        pairs = [_larger(*pair, axis) for pair in zip(nodes[::2], nodes[1::2], strict=False)]
        nodes = pairs + nodes[2 * len(pairs) :]
    return nodes[0].mean, nodes[0].spread


class _Pooled(torch.autograd.Function):
    """Moments of the largest of every window, chunk by chunk; computed again for the derivative.

    Only what is pooled is kept, and no copies of it for each place within the windows.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, spread: Tensor, windows: Windows, axis: int | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(mean, spread)
        ctx.windows, ctx.axis = windows, axis
        found = _empty(mean, windows), _empty(spread, windows)
        for chunk in windows.chunks(spread, 0 if axis is None else axis - 1):
            parts = _largest(chunk.views(mean), chunk.views(spread), axis)
            for whole, part in zip(found, parts, strict=True):
                chunk.of_result(whole).copy_(part)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_spread: Tensor) -> tuple[Tensor, Tensor, None, None]:
        mean, spread = ctx.saved_tensors
        found = torch.zeros_like(mean), torch.zeros_like(spread)
        for chunk in ctx.windows.chunks(spread, 0 if ctx.axis is None else ctx.axis - 1):
            outward = [chunk.of_result(slope) for slope in (of_mean, of_spread)]
            slopes = _slopes(chunk, mean, spread, ctx.axis, outward)
            places = [view for whole in found for view in chunk.views(whole)]
            for place, slope in zip(places, slopes, strict=True):
                place.add_(slope)
        return *found, None, None


def _slopes(
    chunk: Chunk, mean: Tensor, spread: Tensor, axis: int | None, outward: list[Tensor]
) -> tuple[Tensor, ...]:
    """Return the derivatives by every view of means, then of spreads."""
    means = [view.detach().requires_grad_() for view in chunk.views(mean)]
    spreads = [view.detach().requires_grad_() for view in chunk.views(spread)]
    with torch.enable_grad():
        found = _largest(means, spreads, axis)
    if len(means) == 1:
        return tuple(outward)
    return torch.autograd.grad(found, [*means, *spreads], outward)


def _empty(value: Tensor, windows: Windows) -> Tensor:
    """Return memory for one value of each window, laid out as the value is."""
    shape = (*value.shape[: -len(windows.size)], *windows.outputs)
    order = sorted(range(value.ndim), key=value.stride, reverse=True)
    made = value.new_empty([shape[dim] for dim in order])
    return made.permute([order.index(dim) for dim in range(value.ndim)])


@moments.rule(MaxPool, name="variance")
def largest(op: MaxPool, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Take values as independent."""
    (value,) = inputs
    mean, windows = with_margins(op, value.mean, _lowest(value.mean))
    spread, _ = with_margins(op, value.uncertainty, 0.0)
    return Moments(*_Pooled.apply(mean, spread, windows, None))


@moments.rule(MaxPool, name="factor")
def largest_rows(op: MaxPool, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Weigh the rows of a window's values by their chances to be the largest."""
    (value,), source = inputs, op.inputs[0]
    mean, windows = with_margins(op, value.mean, _lowest(value.mean))
    spread, _ = with_margins(op, value.uncertainty, 0.0)
    axis, rows = form.apart(source, spread)
    _, shared = form.apart(source, mean, n_factors=1)
    found = _Pooled.apply(shared, rows, windows, axis)
    return Moments(*(form.together(op.name, one) for one in found))


def _lowest(mean: Tensor) -> float:
    """Return what never is the largest; finite, because differences of it are taken."""
    return torch.finfo(mean.dtype).min / 4
