"""Rules for sums, means, norms and orders over axes: places of a channel merge, channels share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional

from explainers.causal.structure.passing import merged
from explainers.causal.structure.table import channels, refuse
from explainers.causal.structure.units import (
    NOTHING,
    Units,
    agreed,
    broadcast,
    joined,
    settled,
    shared_over,
    windows,
    without,
)
from explainers.operators import AveragePool, Call, Generic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explainers.causal.structure.passing import Given
    from explainers.causal.structure.table import Setting
    from explainers.operators import Operator

_REDUCTIONS = frozenset(
    (
        *("sum", "mean", "linalg_vector_norm", "norm", "var", "std", "logsumexp", "prod"),
        *("amax", "amin", "max", "min"),
    )
)
_OF_THEIR_OWN = frozenset(("tril", "triu", "instance_norm"))
"""They leave each value of its own channel, as norms do."""
_CHOOSING = frozenset(("median", "kthvalue", "mode"))
"""They choose one of the values along an axis."""
_ALONG = _CHOOSING | frozenset(("cumsum", "cumprod", "topk", "sort"))
"""Functions of the values along one axis, in whatever order."""


@channels.rule(AveragePool)
def average_pool(op: AveragePool, units: Given, setting: Setting) -> Units | None:
    """Merge places of a window; a mean over channels is a statistic of them.

    So is that of a window of channels, as in local response norms (Krizhevsky et al. 2012).
    """
    (one,) = units
    axes = range(-len(op.size), 0)
    if op.form == "window" and not op.ceil_mode and one is not None and agreed(one, axes) is None:
        zeros = [(width, width) for width in op.padding]
        read = windows(one, op.size, op.stride, (1,) * len(op.size), zeros)
        found = shared_over((read,), axes, setting.register, is_statistic=True)
        index = without(found.index, axes)
        return broadcast(Units(index, found.table), setting.shapes[op.name])
    if op.form != "mean":
        return merged(op, one, axes, setting)
    return _reduced(op, units[0], op.dims, setting, keeps_axes=op.keepdim)


@channels.rule(Generic)
def function(op: Generic, units: Given, setting: Setting) -> Units | None:
    """Merge places along the axes of a function that is known.

    Raises
    ------
    NotImplementedError
        If it is not.
    """
    if op.word in _OF_THEIR_OWN:
        return units[0]
    if op.word == "im2col":
        return _unfolded(op, units[0])
    bound = _arguments(op)
    if op.word == "glu":
        return _gated(units[0], bound.get("dim", -1), setting.shapes[op.name], setting)
    if op.word in _REDUCTIONS:
        keeps_axes = bound.get("keepdim", False)
        return _reduced(op, units[0], _axes(bound), setting, keeps_axes=keeps_axes)
    axes = _axes(bound) if op.word in _ALONG else None
    if "upsample" in op.word:
        axes = tuple(range(2, len(setting.shapes[op.name])))
    if axes is None:
        refuse(op, "there is no rule for this function")
    keeps_axes = op.word not in _CHOOSING or bound.get("keepdim", False)
    return merged(op, units[0], axes, setting, keeps_axes=keeps_axes)


def _arguments(op: Call) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    schema = getattr(op.function, "_schema", None)
    named = [one.name for one in schema.arguments if not one.kwarg_only] if schema else []
    return dict(zip(named, op.arguments, strict=False)) | dict(op.options)


def _axes(bound: dict[str, Any]) -> tuple[int, ...] | None:
    """Return the axes that a function names; None if it takes all."""
    dims = bound.get("dim")
    if dims is None or dims == []:
        return None
    return (dims,) if isinstance(dims, int) else tuple(dims)


def _reduced(
    op: Operator,
    units: Units | None,
    axes: Sequence[int] | None,
    setting: Setting,
    *,
    keeps_axes: bool,
) -> Units | None:
    """Return what places agree on, or a unit that stands for all channels along the axes."""
    if units is None:
        return None
    if axes is None:
        refuse(op, "it merges the rows of the batch")
    found = agreed(units, axes)
    if found is None:
        found = shared_over((units,), axes, setting.register, is_statistic=True)
    index = found.index if keeps_axes else without(found.index, axes)
    return broadcast(Units(index, found.table), setting.shapes[op.name])


def _gated(
    units: Units | None, axis: int, shape: tuple[int, ...], setting: Setting
) -> Units | None:
    """Join the units of both halves of an axis: a value and its gate."""
    if units is None:
        return None
    halves = units.index.chunk(2, axis)
    value, gate = (Units(half, units.table) for half in halves)
    return joined(value, gate, shape, setting.register)


def _unfolded(op: Call, units: Units | None) -> Units | None:
    """Move units as windows are laid out side by side; there is nothing in the zeros around."""
    if units is None:
        return None
    table = functional.pad(units.table, (0, 0, 1, 0), value=NOTHING)
    index = op.run((units.index + 1).double()).long()  # there is no kernel for integers
    return settled(Units(index, table))
