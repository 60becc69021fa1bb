"""Which part of the input a place of a layer's value can depend on, read off the program.

Along each axis of the input a place depends on an interval. Intervals are followed from the input
on: a window takes the hull of those that it reads, an index map moves them, a value at the same
places joins them. What mixes an axis takes the hull of all its places; what no function here knows,
of all places of all its inputs: a linear layer, attention, a mean.

Araujo, Norris & Sim 2019, doi:10.23915/distill.00021, derive the numbers for chains of windows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from explainers.concepts.along import Along
from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Elementwise,
    Input,
    Linear,
    LinearMap,
    MaxPool,
    Multiply,
    Normalise,
    Operator,
    Pad,
    Reshape,
    Softmax,
)
from explainers.units import channel_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.network import Network

    Shape = tuple[int, ...]
    """Of one sample's value."""


Field = tuple[Along, ...]
"""What places of a value depend on, for each axis of the input behind its channels."""


def receptive_field(network: Network, layer: str) -> Tensor:
    """Return the smallest box that holds all that each position of a layer's value depends on.

    Parameters
    ----------
    network
        Must be a program of one input ``(channels, *axes)``.
    layer
        Name of a layer.

    Returns
    -------
    Tensor
        Int64, ``(positions, 2 * axes)``: first places, then those behind the last; of an image top,
        left, bottom, right. Positions are all axes of the value but that of channels, flat and
        row-major. A position that depends on no input has zeros.

    Raises
    ------
    LookupError
        If there is no such layer.
    NotImplementedError
        If the network is not a program.
    TypeError
        If it has several inputs.
    """
    op = network.operator(layer)
    layout = network.layout(op.name)
    if layout is None or not layout.is_plain or not layout.shape:
        raise ValueError(
            f"the value of layer {layer!r} does not have samples along its first axis, so its "
            "positions are not known; name the layer before or behind it"
        )
    boxes = boxes_of(network, layer)
    return boxes.select(channel_axis(network, layer), 0).reshape(-1, boxes.shape[-1])


def boxes_of(network: Network, layer: str) -> Tensor:
    """Return the box of every place of a layer's value, ``(*shape, 2 * axes)``.

    See `receptive_field`; where the value has no rows of its own, the shape is empty: one box holds
    what all of it depends on.
    """
    name = network.operator(layer).name
    shape = _shape(network, name) or ()
    places = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    return boxes_at(network, name, places).expand(*shape, -1)


def boxes_at(network: Network, operator: str, places: Sequence[Tensor | None]) -> Tensor:
    """Return the boxes of some places of an operator's value, ``(*places, 2 * axes)``.

    Parameters
    ----------
    network, operator
        See `receptive_field`.
    places
        For each axis of one sample's value the indices, of one shape; None for all along an axis.
    """
    mixed = [axis for axis, place in enumerate(places) if place is None]
    shape = next((place.shape for place in places if place is not None), torch.Size())
    starts, stops = [torch.zeros(0, *shape).long()], [torch.zeros(0, *shape).long()]
    for along in _fields(network)[operator]:
        held = along.without(*mixed)
        place = None if held.axis is None else places[held.axis]
        for bounds, found in ((held.starts, starts), (held.stops, stops)):
            found.append((bounds[0] if place is None else bounds[place]).expand(1, *shape))
    first, behind = torch.cat(starts), torch.cat(stops)
    is_empty = (first >= behind).any(0)
    return torch.cat([first, behind]).masked_fill(is_empty, 0).movedim(0, -1)


def check(network: Network) -> None:
    """Follow all values of a program, so that one that cannot be followed is found now."""
    _fields(network)


_known: WeakKeyDictionary[Network, dict[str, Field]] = WeakKeyDictionary()


def _fields(network: Network) -> dict[str, Field]:
    """Return the field of every operator that depends on the input."""
    if network not in _known:
        axes = network.input_shape[1:]
        whole = tuple(
            Along(place + 1, torch.arange(size), torch.arange(1, size + 1))
            for place, size in enumerate(axes)
        )
        found: dict[str, Field] = {}
        for op in network.operators:
            if isinstance(op, Input):
                found[op.name] = whole
            elif op.name in network.dependent:
                found[op.name] = _followed(network, op, found)
        _known[network] = found
    return _known[network]


def _followed(network: Network, op: Operator, fields: dict[str, Field]) -> Field:
    sources = [name for name in op.inputs if name in op.sources and name in fields]
    shapes = [_shape(network, name) for name in sources]
    known, shape = [each for each in shapes if each is not None], _shape(network, op.name)
    per_axis = list(zip(*(fields[name] for name in sources), strict=True))
    if shape is None or len(known) < len(shapes):
        return tuple(_mixed(given) for given in per_axis)
    return tuple(_step(op, given, known, shape) for given in per_axis)


def _shape(network: Network, name: str) -> Shape | None:
    """Return the shape of a value for one sample; None where samples are not rows of their own."""
    layout = network.layout(name)
    return layout.shape if layout is not None and layout.is_plain else None


def _mixed(given: Sequence[Along]) -> Along:
    starts = torch.cat([each.starts for each in given])
    return Along(None, starts, torch.cat([each.stops for each in given])).hull()


@singledispatch
def _step(op: Operator, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    """Return what places of an operator's value depend on along one axis of the input.

    Parameters
    ----------
    op
        The operator; of one not known here, all places depend on all places of all inputs.
    given
        The same of its inputs, those alone that depend on the network's input.
    shapes
        Of them, for one sample.
    shape
        Of the value, for one sample.
    """
    return _mixed(given)


@_step.register(Activation | Add | Affine | Elementwise | Multiply)
def _in_place(op: Operator, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    axes = {each.axis for each in given} - {None}
    if len(axes) > 1 or any(len(each) != len(shape) for each in shapes):
        return _mixed(given)
    axis = axes.pop() if axes else None
    size = 1 if axis is None else shape[axis]
    starts, stops = zip(*(each.over(axis, size) for each in given), strict=True)
    return Along(axis, torch.stack(starts).amin(0), torch.stack(stops).amax(0))


@_step.register(Concat)
def _concat(op: Concat, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    joined = op.dim % (len(shape) + 1) - 1
    if not any(each.axis == joined for each in given):
        return _in_place(op, given, shapes, shape)
    if len(given) < len(op.inputs):
        return _mixed(given)
    parts = [each.over(joined, of[joined]) for each, of in zip(given, shapes, strict=True)]
    starts, stops = zip(*parts, strict=True)
    return Along(joined, torch.cat(starts), torch.cat(stops))


@_step.register(Linear)
def _linear(op: Linear, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    return given[0].without(len(shape) - 1)


@_step.register(Softmax)
def _softmax(op: Softmax, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    return given[0].without(op.dim % (len(shape) + 1) - 1)


@_step.register(Normalise)
def _normalise(
    op: Normalise, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape
) -> Along:
    n_axes = len(shape) if op.kind == "group" else len(op.shape)
    return given[0].without(*range(len(shape) - n_axes, len(shape)))


@_step.register(Reshape)
def _reshape(op: Reshape, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    (along, *others), (before, *_) = given, shapes
    if others or along.axis is None:
        return _mixed(given)
    sizes = [1] * (len(before) + 1)
    sizes[along.axis + 1] = before[along.axis]
    # some functions that repeat values do so with floating-point numbers alone
    indices = torch.arange(before[along.axis], dtype=torch.float64).reshape(sizes)
    # further inputs say how large the batch is: here, one
    moved = op.run(indices.expand(1, *before), *[indices.new_empty(1)] * (len(op.inputs) - 1))
    moved = moved[0].to(torch.int64)
    axes = [axis for axis in range(moved.ndim) if bool((moved != moved.narrow(axis, 0, 1)).any())]
    if len(axes) > 1 or moved.shape != shape:
        return along.hull()
    axis = axes[0] if axes else None
    reads = (
        moved.flatten()[:1]
        if axis is None
        else moved.movedim(axis, 0).reshape(shape[axis], -1)[:, 0]
    )
    return replace(along.moved(0, reads[:, None], before[along.axis]), axis=axis)


@_step.register(LinearMap)
def _linear_map(
    op: LinearMap, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape
) -> Along:
    (along,), (before,) = given, shapes
    if "upsample" not in op.word or not along.axis:
        return _mixed(given)
    # each place reads some neighbours, in every channel the same
    size = before[along.axis]
    places = torch.arange(size)
    marked = torch.zeros(size, 1, *before[1:], dtype=torch.float64).movedim(along.axis + 1, 1)
    marked[places, places] = torch.nan
    is_read = op.run(marked.movedim(1, along.axis + 1)).isnan().movedim(along.axis + 1, 1)
    is_read = is_read.flatten(2).any(-1).T
    return along.moved(along.axis, torch.where(is_read, places, -1), size)


@_step.register(Pad)
def _pad(op: Pad, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    (along,), (before,) = given, shapes
    behind = len(before) - 1 - (along.axis or 0)
    if along.axis is None or 2 * behind >= len(op.padding):
        return along
    widths = tuple(op.padding[2 * behind : 2 * behind + 2])
    places = torch.arange(before[along.axis], dtype=torch.float64)[None, None]
    value = -1.0 if op.mode == "constant" else None
    reads = functional.pad(places, widths, op.mode, value)[0, 0].to(torch.int64)
    return along.moved(along.axis, reads[:, None], before[along.axis])


@_step.register(Convolution)
def _convolution(
    op: Convolution, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape
) -> Along:
    size, stride, padding, dilation = op.weight.shape[2:], op.stride, op.padding, op.dilation
    if not op.transposed:
        padding = tuple(before for before, _ in op.extents_of_zeros)
    return _windowed(given, shapes, shape, size, stride, padding, dilation, op.transposed)


@_step.register(MaxPool)
def _max_pool(op: MaxPool, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape) -> Along:
    if op.is_adaptive:
        return _adaptive(given, shapes, shape, len(op.size))
    return _windowed(given, shapes, shape, op.size, op.stride, op.padding, op.dilation)


@_step.register(AveragePool)
def _average_pool(
    op: AveragePool, given: Sequence[Along], shapes: Sequence[Shape], shape: Shape
) -> Along:
    if op.form == "window":
        return _windowed(given, shapes, shape, op.size, op.stride, op.padding)
    if op.form == "adaptive":
        return _adaptive(given, shapes, shape, len(op.size))
    n_axes = len(shapes[0])
    axes = tuple(axis % (n_axes + 1) - 1 for axis in op.dims)
    along = given[0].without(*axes)
    if along.axis is None or op.keepdim:
        return along
    return replace(along, axis=along.axis - sum(axis < along.axis for axis in axes))


def _windowed(
    given: Sequence[Along],
    shapes: Sequence[Shape],
    shape: Shape,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    is_transposed: bool = False,
) -> Along:
    """Return what windows over the last axes read, place by place."""
    (along,), (before,) = given, shapes
    place = -1 if along.axis is None else along.axis - (len(before) - len(size))
    if place < 0 or along.axis is None:
        return along.hull()
    # one number may stand for all axes
    step, shift, apart = (
        numbers[place % len(numbers)]
        for numbers in (stride or size, padding or (0,), dilation or (1,))
    )
    taps = torch.arange(size[place]) * apart
    places = torch.arange(shape[along.axis])[:, None]
    if not is_transposed:
        return along.moved(along.axis, places * step - shift + taps, before[along.axis])
    # an input place p is added to all outputs p * stride - padding + tap
    reads = places + shift - taps
    reads = torch.where(reads % step == 0, reads.div(step, rounding_mode="floor"), -1)
    return along.moved(along.axis, reads, before[along.axis])


def _adaptive(given: Sequence[Along], shapes: Sequence[Shape], shape: Shape, n_axes: int) -> Along:
    """Return what parts of the last axes read: from floor(i n / m) to ceil((i + 1) n / m)."""
    (along,), (before,) = given, shapes
    if along.axis is None or along.axis < len(before) - n_axes:
        return along.hull()
    full, parts = before[along.axis], shape[along.axis]
    places = torch.arange(parts)[:, None]
    first, last = places * full // parts, -(-(places + 1) * full // parts)
    reads = first + torch.arange(full)
    return along.moved(along.axis, torch.where(reads < last, reads, -1), full)
