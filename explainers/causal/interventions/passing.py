"""How operators take values of which only some channels have changed.

What works on each channel by itself hands on the channels that have changed. A convolution or
linear map mixes channels; it adds what those that have changed make of their change to its value
without interventions. What has no rule computes all channels anew.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch
from typing import TYPE_CHECKING

import torch

from explainers.causal.interventions.partial import Changed, Partial
from explainers.causal.interventions.rows import place_of
from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Linear,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Unary,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.causal.interventions.rows import Place
    from explainers.network import Network

SPARSE = 0.75
"""Share of a convolution's input channels up to which only the changed ones are read: then the
reference has to be fetched and added, which takes the time of about a quarter of the product."""

_TURNING = frozenset({"permute", "transpose"})


@singledispatch
def passed(op: Operator, changed: Changed) -> Tensor | Partial:
    """Return an operator's value for the pairs; what has no rule computes all channels."""
    return whole(op, changed)


def whole(op: Operator, changed: Changed) -> Tensor:
    """Return an operator's value for the pairs, of all channels."""
    return op.run(
        *(
            changed.whole(name) if name in op.sources else changed.stack.sized(name)
            for name in op.inputs
        )
    )


def _only(op: Operator, changed: Changed) -> Partial | None:
    """Return the operator's one input where few channels have changed, else None."""
    found = changed[op.inputs[0]] if len(op.inputs) == 1 else None
    return found if isinstance(found, Partial) else None


@passed.register(Activation)
@passed.register(Unary)
def _alone(op: Operator, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    return whole(op, changed) if part is None else replace(part, value=op.run(part.value))


@passed.register(MaxPool)
def _max_pool(op: MaxPool, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    if part is None or part.axis >= part.value.ndim - len(op.size):
        return whole(op, changed)
    return replace(part, value=op.run(part.value))


@passed.register(AveragePool)
def _average_pool(op: AveragePool, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    if part is None:
        return whole(op, changed)
    n_axes = part.value.ndim
    if op.form != "mean":
        is_apart = part.axis < n_axes - len(op.size)
        return replace(part, value=op.run(part.value)) if is_apart else whole(op, changed)
    dims = [dim % n_axes for dim in op.dims]
    if part.axis in dims:
        return whole(op, changed)
    n_before = 0 if op.keepdim else sum(dim < part.axis for dim in dims)
    return replace(part, value=op.run(part.value), axis=part.axis - n_before)


@passed.register(Pad)
def _pad(op: Pad, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    if part is None or part.axis >= part.value.ndim - len(op.padding) // 2:
        return whole(op, changed)
    return replace(part, value=op.run(part.value))


@passed.register(Affine)
def _affine(op: Affine, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    if part is None:
        return whole(op, changed)

    def make() -> Affine:
        scale, shift = (_fixed(one, part) for one in (op.scale, op.shift))
        return replace(op, scale=scale, shift=shift)

    narrow = changed.stack.reference.once(("narrow", op.name), make)
    return replace(part, value=narrow.run(part.value))


def _fixed(factor: Tensor | None, part: Partial) -> Tensor | None:
    """Return the columns of a factor that is broadcast against the whole value."""
    axis = part.axis - part.value.ndim
    if factor is None or factor.ndim < -axis or factor.shape[axis] == 1:
        return factor
    return factor.index_select(axis, part.columns)


@passed.register(Add)
@passed.register(Multiply)
def _together(op: Add | Multiply, changed: Changed) -> Tensor | Partial:
    first, second = (changed[name] for name in op.inputs)
    if isinstance(first, Partial) and isinstance(second, Partial):
        if first.axis != second.axis or first.columns is not second.columns:
            return whole(op, changed)
        return replace(first, value=op.run(first.value, second.value))
    part, other = (first, second) if isinstance(first, Partial) else (second, first)
    if not isinstance(part, Partial) or other is not None:
        return whole(op, changed)
    name = op.inputs[1] if part is first else op.inputs[0]
    beside = _beside(name, op, part, changed)
    if beside is None:
        return whole(op, changed)
    operands = (part.value, beside) if part is first else (beside, part.value)
    return replace(part, value=op.run(*operands))


def _beside(name: str, op: Operator, part: Partial, changed: Changed) -> Tensor | None:
    """Return the columns of an operand that has not changed; None if they do not correspond."""
    stack, axis = changed.stack, part.axis - part.value.ndim
    value = stack.reference.values[name]
    if value.ndim > part.value.ndim:
        return None
    is_shared = value.ndim < -axis or value.shape[axis] == 1
    if not is_shared and value.shape[axis] != part.size:
        return None
    if not stack.reference.has_rows(name):
        return _fixed(value, part)
    if value.ndim != part.value.ndim:
        return None
    return stack.full(name) if is_shared else stack.part(name, part.axis, part.columns, op.name)


@passed.register(Convolution)
def _convolution(op: Convolution, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    n_inputs = op.weight.shape[0] if op.transposed else op.weight.shape[1] * op.groups
    if part is None or part.axis != 1 or part.size != n_inputs:
        return whole(op, changed)
    if op.groups == n_inputs and op.groups > 1 and not op.transposed:
        return _depthwise(op, part, changed)
    if op.groups > 1 or part.share > SPARSE:
        return whole(op, changed)
    axis = 0 if op.transposed else 1
    return _mixed(op, part, changed, axis)


def _depthwise(op: Convolution, part: Partial, changed: Changed) -> Partial:
    multiplier = op.weight.shape[0] // op.groups

    def make() -> tuple[Convolution, Tensor]:
        within = torch.arange(multiplier, device=part.columns.device)
        columns = (part.columns[:, None] * multiplier + within).flatten()
        bias = None if op.bias is None else op.bias[columns]
        weight = _like(op.weight, op.weight[columns])
        return replace(op, weight=weight, bias=bias, groups=len(part.columns)), columns

    narrow, columns = changed.stack.reference.once(("narrow", op.name), make)
    return Partial(narrow.run(part.value), 1, columns, op.weight.shape[0])


@passed.register(Linear)
def _linear(op: Linear, changed: Changed) -> Tensor | Partial:
    part = _only(op, changed)
    if part is None:
        return whole(op, changed)
    if part.axis != part.value.ndim - 1:
        return replace(part, value=op.run(part.value))
    return whole(op, changed) if part.share > SPARSE else _mixed(op, part, changed, 1)


def _mixed(op: Convolution | Linear, part: Partial, changed: Changed, axis: int) -> Tensor:
    """Return ``z + W[:, columns] (a' - a)[columns]``."""
    stack = changed.stack
    weight = stack.reference.once(
        ("narrow", op.name), lambda: _like(op.weight, op.weight.index_select(axis, part.columns))
    )
    before = stack.part(op.inputs[0], part.axis, part.columns, op.name)
    made = op.linear(part.value - before, weight)
    return made.add_(stack.full(op.name))


def _like(whole_weight: Tensor, weight: Tensor) -> Tensor:
    """Return weights channels last where those of all channels are."""
    if weight.ndim == 4 and whole_weight.is_contiguous(memory_format=torch.channels_last):
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


@passed.register(Concat)
def _concat(op: Concat, changed: Changed) -> Tensor | Partial:
    values = changed.stack.reference.values
    dim = op.dim % values[op.name].ndim
    parts: list[Tensor] = []
    joined: list[tuple[Tensor | None, int, int]] = []
    offset = 0
    for name in op.inputs:
        value, size = changed[name], values[name].shape[dim]
        if isinstance(value, Partial) and value.axis != dim:
            return whole(op, changed)
        if value is not None:
            inner, columns = _taken_apart(value)
            parts.append(inner)
            joined.append((columns, offset, size))
        offset += size
    place = _place(changed.stack.reference.network, op)
    if place is None or dim == place.axis:
        return whole(op, changed)
    columns = changed.stack.reference.once(("columns", op.name), _columns(joined, parts[0]))
    return Partial(op.run(*parts), dim, columns, offset)


def _taken_apart(value: Tensor | Partial) -> tuple[Tensor, Tensor | None]:
    return (value.value, value.columns) if isinstance(value, Partial) else (value, None)


def _columns(joined: list[tuple[Tensor | None, int, int]], like: Tensor) -> Callable[[], Tensor]:
    """Return what makes the columns of values in a row, given theirs, or None, and where it is."""

    def make() -> Tensor:
        found = [
            offset + (torch.arange(size, device=like.device) if columns is None else columns)
            for columns, offset, size in joined
        ]
        return torch.cat(found)

    return make


@passed.register(Reshape)
def _reshape(op: Reshape, changed: Changed) -> Tensor | Partial:
    part = changed[op.inputs[0]]
    if not isinstance(part, Partial):
        return whole(op, changed)
    if op.word in _TURNING and len(op.inputs) == 1:
        return _turned(op, part)
    reference = changed.stack.reference
    source = next(one for one in reference.network.operators if one.name == op.inputs[0])
    places = (_place(reference.network, one) for one in (source, op))
    if not op.is_ordered or not all(place is not None and place.is_plain for place in places):
        return whole(op, changed)
    before, after = (reference.values[name].shape for name in (op.inputs[0], op.name))
    axis = part.axis
    if after[1 : axis + 1] == before[1 : axis + 1]:
        return replace(
            part, value=part.value.reshape(*part.value.shape[: axis + 1], *after[axis + 1 :])
        )
    if len(after) == axis + 1 and after[1:axis] == before[1:axis]:
        columns = reference.once(("columns", op.name), lambda: _places(part, before))
        return Partial(part.value.flatten(axis), axis, columns, after[axis])
    return whole(op, changed)


def _place(network: Network, op: Operator) -> Place | None:
    """Return where rows are in a value; None if it cannot be told, where all is computed anew."""
    try:
        return place_of(network, op)
    except NotImplementedError:
        return None


def _places(part: Partial, shape: tuple[int, ...]) -> Tensor:
    """Return the columns of a value whose channels' places are channels now."""
    n_places = math.prod(shape[part.axis + 1 :])
    within = torch.arange(n_places, device=part.columns.device)
    return (part.columns[:, None] * n_places + within).flatten()


def _turned(op: Reshape, part: Partial) -> Partial:
    # axes of different lengths show where each has gone
    lengths = range(2, 2 + part.value.ndim)
    probe = op.run(part.value.new_empty(()).expand(*lengths))
    axis = list(probe.shape).index(lengths[part.axis])
    return replace(part, value=op.run(part.value), axis=axis)
