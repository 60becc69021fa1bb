"""Moments behind max-pool: Clark's moments of two values, one value of a window after the other.

Of two Gaussian values with means m1, m2 and s = Var[x1 - x2], with A = sqrt(s), a = (m1 - m2) / A
and h(a) = phi(a) - a Phi(-a) (Clark 1961, doi:10.1287/opre.9.2.145)::

    P[x1 > x2] = p = Phi(a)      E[max] = m1 + A h(a) = m2 + A h(-a)
    Var[max] = p v1 + (1 - p) v2 - s h(a) h(-a)        Cov[max, y] = p Cov[x1, y] + (1-p) Cov[x2, y]

which are Clark's, rid of differences of large numbers. For two values they are exact. The larger
of two is taken as Gaussian again to meet the third, and so on, in ascending order of the variances:
the other way a narrow value cuts off a wide one, and what is left is far from Gaussian. Variances
that cross one another swap the order, which is a small step in the result, and makes solvers that
search along a line take half as many evaluations again and end up to 3 % above others. Where a form
has to be smooth, neighbours are therefore taken pair by pair in place order.

In the form ``variance`` s = v1 + v2. Of independent values with means from N(0, 0.8^2) and
variances from U(0.05, 1.55), or lognormal with a logarithm from N(0, 1), the mean is right to 0.02
standard deviations, and the variance too small: in the median by 3 % and at most by 16 % for four
values, by 9 % and 19 % for nine (pair by pair in place order it is up to 48 % and 66 %).

In the form ``factor`` the maximum has the rows ``p L1 + (1 - p) L2``, whose square sum lacks a part
e of its variance; s is therefore ``sum_k (L1 - L2)^2 + e1 + e2``, which knows how the values of a
window vary together. The rows are off by 8 % in the root mean square for nine values with 30 rows
of random numbers each, by 24 % at most; what they lack themselves, e, is not carried further: it is
least where values vary together (their square sum is above 0.75 of the variance with correlations
of 0.7) and most where many independent ones compete (down to 0.2 for nine).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from explainers.operators import MaxPool
from explainers.rules.moments.forms import Moments
from explainers.rules.moments.normal import below, density, far
from explainers.rules.moments.table import moments
from explainers.rules.moments.windows import with_margins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.rules.moments.forms import Form
    from explainers.rules.moments.windows import Windows

_AT_ONCE = 1 << 21
"""Values that are squared at once."""
_MANY = 25
"""Values of a window beyond which sorting is faster than counting pairs."""


class _Step(NamedTuple):
    """What two values have between them, at a = (m1 - m2) / A."""

    chance: Tensor
    """p."""
    other: Tensor
    """1 - p."""
    density: Tensor
    """phi(a)."""
    upper: Tensor
    """h(a)."""
    lower: Tensor
    """h(-a)."""

    @classmethod
    def at(cls, a: Tensor) -> _Step:
        chance, other, high = below(a), below(-a), density(a)
        return cls(chance, other, high, high - a * other, high + a * chance)


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
        most = far(s.dtype)
        a = ((first - second) * inverse).clamp_(-most, most)
        a.masked_fill_((s <= 0) & (first == second), most)
        step = _Step.at(a)
        excess = torch.minimum(step.upper, step.lower).clamp_(min=0.0)
        largest = torch.addcmul(torch.maximum(first, second), s * inverse, excess)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(a, s, inverse, *step)
        return largest, step.chance, (step.upper * step.lower).clamp_(min=0.0).mul_(s)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_mean: Tensor, of_chance: Tensor, of_both: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        a, s, inverse, *saved = ctx.saved_tensors
        step = _Step(*saved)
        turn = step.chance * step.upper - step.other * step.lower
        steep = step.density * inverse
        moved = of_chance * steep + of_both * turn * s * inverse
        to_s = (of_mean - of_chance * a * inverse) * steep / 2
        to_s = to_s + of_both * (step.upper * step.lower - a * turn / 2)
        return of_mean * step.chance + moved, of_mean * step.other - moved, to_s


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


def _largest(
    means: Sequence[Tensor], spreads: Sequence[Tensor], axis: int | None, *, in_pairs: bool
) -> _Node:
    """Return the largest of all: neighbours in pairs, or one value after the other."""
    nodes = [_Node(*pair, None) for pair in zip(means, spreads, strict=True)]
    if not in_pairs:
        return functools.reduce(functools.partial(_larger, axis=axis), nodes)
    while len(nodes) > 1:
        neighbours = zip(nodes[::2], nodes[1::2], strict=False)
        pairs = [_larger(left, right, axis) for left, right in neighbours]
        nodes = pairs + nodes[2 * len(pairs) :]
    return nodes[0]


class _Pooled(torch.autograd.Function):
    """Moments of the largest of every window, chunk by chunk; computed again for the derivative.

    Only what is pooled is kept, and no copies of it for each place within the windows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mean: Tensor,
        spread: Tensor,
        windows: Windows,
        axis: int | None,
        is_smooth: bool,
    ) -> tuple[Tensor, Tensor]:
        widths = None if is_smooth else _widths(spread, axis)
        ctx.save_for_backward(mean, spread, widths)
        ctx.windows, ctx.axis = windows, axis
        found = _empty(mean, windows), _empty(spread, windows)
        for chunk in windows.chunks(spread, 0 if axis is None else axis - 1):
            ranks = None if widths is None else _ranks(chunk.views(widths))
            means, spreads = (_ordered(chunk.views(one), ranks) for one in (mean, spread))
            made = _largest(means, spreads, axis, in_pairs=is_smooth)
            for whole, part in zip(found, made[:2], strict=True):
                chunk.of_result(whole).copy_(part)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_spread: Tensor) -> tuple[Tensor | None, ...]:
        mean, spread, widths = ctx.saved_tensors
        found = torch.zeros_like(mean), torch.zeros_like(spread)
        for chunk in ctx.windows.chunks(spread, 0 if ctx.axis is None else ctx.axis - 1):
            ranks = None if widths is None else _ranks(chunk.views(widths))
            means, spreads = (_ordered(chunk.views(one), ranks) for one in (mean, spread))
            outward = [chunk.of_result(slope) for slope in (of_mean, of_spread)]
            made = _slopes(means, spreads, ctx.axis, outward, in_pairs=widths is None)
            for whole, slopes in zip(found, made, strict=True):
                for place, slope in zip(chunk.views(whole), _back(slopes, ranks), strict=True):
                    place.add_(slope)
        return *found, None, None, None


def _slopes(
    means: Sequence[Tensor],
    spreads: Sequence[Tensor],
    axis: int | None,
    outward: list[Tensor],
    *,
    in_pairs: bool,
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return the derivatives by the means, then by the spreads."""
    leaves = [one.detach().requires_grad_() for one in (*means, *spreads)]
    with torch.enable_grad():
        split = leaves[: len(means)], leaves[len(means) :]
        found = _largest(*split, axis, in_pairs=in_pairs)
    slopes = torch.autograd.grad(found[:2], leaves, outward)
    return slopes[: len(means)], slopes[len(means) :]


def _widths(spread: Tensor, axis: int | None) -> Tensor:
    """Return the variances, with length 1 along the axis of rows."""
    if axis is None:
        variances = spread
    else:
        parts = torch.split(spread, 1 + _AT_ONCE // max(spread[:1].numel(), 1))
        # a fused norm takes twice as long
        variances = torch.cat([part.square().sum(axis, keepdim=True) for part in parts])
    # what is not a number must have a rank as well
    return torch.nan_to_num(variances, math.inf, math.inf)


def _ranks(widths: Sequence[Tensor]) -> Tensor:
    """Return which place each value of a window has in ascending order; of equal ones the first."""
    if len(widths) > _MANY:
        return torch.stack(tuple(widths)).argsort(dim=0, stable=True).argsort(dim=0)
    # counted pair by pair: sorting a few values takes several times as long
    ranks = torch.zeros(len(widths), *widths[0].shape, dtype=torch.uint8, device=widths[0].device)
    for place, width in enumerate(widths):
        for before, other in enumerate(widths[:place]):
            is_less = (width < other).view(torch.uint8)
            ranks[before] += is_less
            ranks[place] -= is_less
        ranks[place] += place
    return ranks.long()


def _ordered(views: Sequence[Tensor], ranks: Tensor | None) -> Sequence[Tensor]:
    """Return the values of every window by their ranks; in place order without any."""
    if ranks is None:
        return views
    stacked = torch.stack(tuple(views))
    return torch.empty_like(stacked).scatter_(0, ranks.expand_as(stacked), stacked).unbind()


def _back(slopes: Sequence[Tensor], ranks: Tensor | None) -> Sequence[Tensor]:
    """Return what `_ordered` has ordered, in place order."""
    if ranks is None:
        return slopes
    stacked = torch.stack(tuple(slopes))
    return stacked.gather(0, ranks.expand_as(stacked)).unbind()


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
    return Moments(*_Pooled.apply(mean, spread, windows, None, form.is_smooth))


@moments.rule(MaxPool, name="factor")
def largest_rows(op: MaxPool, inputs: tuple[Moments, ...], form: Form) -> Moments:
    """Weigh the rows of a window's values by their chances to be the largest."""
    (value,), source = inputs, op.inputs[0]
    mean, windows = with_margins(op, value.mean, _lowest(value.mean))
    spread, _ = with_margins(op, value.uncertainty, 0.0)
    axis, rows = form.apart(source, spread)
    _, shared = form.apart(source, mean, n_factors=1)
    found = _Pooled.apply(shared, rows, windows, axis, form.is_smooth)
    return Moments(*(form.together(op.name, one) for one in found))


def _lowest(mean: Tensor) -> float:
    """Return what never is the largest; finite, because differences of it are taken."""
    return torch.finfo(mean.dtype).min / 4
