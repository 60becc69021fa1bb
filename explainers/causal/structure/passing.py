"""Rules for what has no weights of a layer: units pass on, move, join or merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.causal.structure.table import channels, refuse
from explainers.causal.structure.units import (
    NOTHING,
    Units,
    agreed,
    broadcast,
    concatenated,
    joined,
    settled,
    shared_over,
    without,
)
from explainers.operators import (
    Activation,
    Add,
    Affine,
    Concat,
    Elementwise,
    MaxPool,
    Multiply,
    Normalise,
    Pad,
    Reshape,
    Softmax,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explainers.causal.structure.table import Setting
    from explainers.operators import Operator

Given = tuple["Units | None", ...]


@channels.rule(Activation, Affine, Normalise)
def same(op: Operator, units: Given, setting: Setting) -> Units | None:
    """Pass on units: each value, normed or not, is of its own channel."""
    return units[0]


@channels.rule(Add, Multiply, Elementwise)
def together(op: Operator, units: Given, setting: Setting) -> Units | None:
    """Join the units of all values that meet at a place: skips, gates."""
    shape = setting.shapes[op.name]
    found: Units | None = None
    for name, one in zip(op.inputs, units, strict=True):
        if name in op.sources:
            found = joined(found, one, shape, setting.register)
    return found


@channels.rule(Concat)
def concat(op: Concat, units: Given, setting: Setting) -> Units | None:
    """Put units side by side, as the values are."""
    shapes = [setting.shapes[name] for name in op.inputs]
    return concatenated(units, shapes, op.dim % len(shapes[0]))


@channels.rule(Reshape)
def reshape(op: Reshape, units: Given, setting: Setting) -> Units | None:
    """Move units as the values are moved."""
    (position,) = (at for at, name in enumerate(op.inputs) if name in op.sources)
    one = units[position]
    if one is None:
        return None
    given = [torch.empty(1).expand(setting.shapes[name]) for name in op.inputs]
    given[position] = one.index.to(setting.device)
    if op.word.startswith("upsample"):
        given[position] = given[position].double()  # there are no kernels for integers
    return settled(Units(op.run(*given).long().cpu(), one.table))


@channels.rule(Pad)
def pad(op: Pad, units: Given, setting: Setting) -> Units | None:
    """Surround units by nothing, or by copies of themselves."""
    (one,) = units
    if one is None:
        return None
    if op.mode == "constant":
        table = functional.pad(one.table, (0, 0, 0, 1), value=NOTHING)
        index = functional.pad(one.index, op.padding, value=len(one.table))
        return settled(Units(index, table))
    index = op.run(one.index.double()).long()  # there are no kernels for integers
    return settled(Units(index, one.table))


@channels.rule(MaxPool)
def max_pool(op: MaxPool, units: Given, setting: Setting) -> Units | None:
    """Merge places of a window, which are of one channel each."""
    return merged(op, units[0], range(-len(op.size), 0), setting)


@channels.rule(Softmax)
def softmax(op: Softmax, units: Given, setting: Setting) -> Units | None:
    """Merge places along the axis of a softmax; over channels it is a unit that stands for all.

    Such are the weights of branches in selective kernels (Li et al. 2019, arXiv:1903.06586).
    """
    (one,) = units
    if one is None:
        return None
    found = agreed(one, (op.dim,)) or shared_over((one,), (op.dim,), setting.register)
    return broadcast(found, setting.shapes[op.name])


def merged(
    op: Operator,
    units: Units | None,
    axes: Sequence[int],
    setting: Setting,
    *,
    keeps_axes: bool = True,
) -> Units | None:
    """Return the units that all places along axes agree on, at the places of the value."""
    if units is None:
        return None
    found = agreed(units, tuple(axes))
    if found is None:
        refuse(op, "it merges values of different channels")
    index = found.index if keeps_axes else without(found.index, axes)
    return broadcast(Units(index, found.table), setting.shapes[op.name])
