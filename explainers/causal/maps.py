"""Where the causes of a convolution's channels are seen: a map for each channel, by its graph.

The maps of Ahmad et al. 2023 (arXiv:2305.08950): a child is a channel that the graph reaches,
its parents are the causes in the layer. A parent's values go through the kernel that leads to the
child, a softmax over places makes shares of the response, and the child's map is the mean over its
parents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.rules.pattern import outward
from explainers.sampling.chunks import ACCELERATOR_ELEMENTS, CPU_ELEMENTS, pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.causal.structure import Structure, WeightedLayer
    from explainers.network import Network
    from explainers.operators import Convolution
    from explainers.trace import Trace

MADE_IN = "maps are made in"
"""What notes of the layer begin with; reports look for it."""
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""What torch calls linear interpolation over so many axes; places are centres of cells."""


@dataclass(frozen=True, eq=False)
class Parents:
    """Channels whose values go through kernels, all of one size."""

    values: Tensor
    """``(rows, parents, *places)``."""
    features: Tensor
    """Channel of the layer's input that each stands at, int64, ``(parents,)``."""


def own_kernel(layer: WeightedLayer) -> Convolution:
    """Return the convolution as the user's module has it, before a norm that was folded."""
    return layer.operator if layer.unfolded is None else layer.unfolded  # type: ignore[return-value]


def read_by(trace: Trace, layer: WeightedLayer, rows: Tensor, causes: Tensor) -> Parents:
    """Return the causes' values as the layer reads them.

    Parameters
    ----------
    trace
        Of a program.
    layer
        A convolution.
    rows
        Of the batch, int64.
    causes
        Neurons of the layer, int64.
    """
    features = features_of(layer, causes)
    value = trace.values[own_kernel(layer).inputs[0]]
    return Parents(_picked(value, rows, features), features)


def made_below(
    trace: Trace, structure: Structure, layer: WeightedLayer, rows: Tensor, causes: Tensor
) -> tuple[Parents, ...]:
    """Return the causes' values as the layers below make them, before norm, activation and pools.

    What several layers make together, as behind a residual sum, is their sum; where they differ in
    size, as a gate and what it scales do, those of most places count.

    Parameters
    ----------
    trace, layer, rows, causes
        See `read_by`.
    structure
        Of the network.

    Returns
    -------
    tuple[Parents, ...]
        Those of one size each.
    """
    features = features_of(layer, causes)
    sources, sizes = layer.sources, torch.zeros(len(structure.layers), dtype=torch.int64)
    shapes = places_below(trace.network, structure, layer)
    for number, shape in shapes.items():
        sizes[number] = math.prod(shape)
    of_entry = sizes[sources.layer]
    largest = torch.zeros(layer.n_neurons, dtype=torch.int64)
    largest.scatter_reduce_(0, sources.neuron, of_entry, "amax")
    counts = of_entry == largest[sources.neuron]
    parts = []
    for size in torch.unique(largest[layer.neuron_of[features]]).tolist():
        some = features[largest[layer.neuron_of[features]] == size]
        at = torch.full((layer.n_neurons,), -1)
        at[layer.neuron_of[some]] = torch.arange(len(some))
        chosen = counts & (at[sources.neuron] >= 0)
        total: Tensor | None = None
        for number in torch.unique(sources.layer[chosen]).tolist():
            entries = chosen & (sources.layer == number)
            value = _picked(_value(trace, structure, number), rows, sources.channel[entries])
            if total is None:
                total = value.new_zeros(len(rows), len(some), *value.shape[2:])
            total.index_add_(1, at[sources.neuron[entries]].to(value.device), value)
        if total is not None:
            # features of one neuron are made of the same channels
            parts.append(Parents(total[:, at[layer.neuron_of[some]].to(total.device)], some))
    return tuple(parts)


def places_below(
    network: Network, structure: Structure, layer: WeightedLayer
) -> dict[int, tuple[int, ...]]:
    """Return the places of the value of each layer below, by its position in the structure.

    Raises
    ------
    NotImplementedError
        If one has no places as the layer's input has.
    """
    n_axes = len(own_kernel(layer).stride)
    found = {}
    for number in torch.unique(layer.sources.layer).tolist():
        below = structure.layers[number]
        layout = network.layout(below.name)
        shape = () if layout is None or not layout.is_plain else layout.shape
        if len(shape) != n_axes + 1:
            raise NotImplementedError(
                f"what {below.name!r} gives has not {n_axes} axes of places as the convolution "
                f"{layer.name!r} above it; take variant='forward', which reads the layer's input"
            )
        found[number] = shape[:-1] if below.kind == "linear" else shape[1:]
    return found


def features_of(layer: WeightedLayer, neurons: Tensor) -> Tensor:
    """Return the channels of the layer's input that belong to neurons, ascending."""
    chosen = torch.zeros(layer.n_neurons, dtype=torch.bool, device=layer.neuron_of.device)
    chosen[neurons.to(chosen.device)] = True
    known = layer.neuron_of >= 0
    return (known & chosen[layer.neuron_of.clamp(min=0)]).nonzero()[:, 0]


def forward_maps(op: Convolution, parents: Parents, children: Tensor) -> Tensor:
    """Return the children's maps with the layer's own padding and stride.

    Parameters
    ----------
    op
        The convolution.
    parents
        What it reads of the causes.
    children
        Its output channels, int64.

    Returns
    -------
    Tensor
        ``(rows, children, *places)``; each sums to one, or is zero where no parent is linked.
    """
    return _maps(op, parents, children, is_literal=False)


def literal_maps(
    op: Convolution, parts: Sequence[Parents], children: Tensor, places: Sequence[int]
) -> Tensor:
    """Return the children's maps by full convolutions: kernels flipped, every overlap a place.

    Stride and dilation of the layer are left out.

    Parameters
    ----------
    op, children
        See `forward_maps`.
    parts
        What layers below make of the causes.
    places
        To which maps are enlarged where parents differ in size: that of the largest.
    """
    counts = torch.stack([_linked(op, each.features, children).sum(0) for each in parts])
    shares = counts.to(torch.float64) / counts.sum(0).clamp(min=1)
    total: Tensor | None = None
    for each, share in zip(parts, shares, strict=True):
        maps = _maps(op, each, children, is_literal=True)
        # as much as those of other sizes: what is enlarged keeps its sum
        share = share * (math.prod(maps.shape[2:]) / math.prod(places))
        maps = resized(maps, places) * share.to(maps).view(1, -1, *[1] * len(places))
        total = maps if total is None else total.add_(maps)
    return torch.empty(0) if total is None else total


def literal_places(network: Network, structure: Structure, layer: WeightedLayer) -> tuple[int, ...]:
    """Return how many places `literal_maps` have along each axis: of the largest layer below."""
    largest = max(places_below(network, structure, layer).values(), key=math.prod)
    kernel = own_kernel(layer).weight.shape[2:]
    return tuple(size + extent - 1 for size, extent in zip(largest, kernel, strict=True))


def resized(maps: Tensor, places: Sequence[int]) -> Tensor:
    """Return maps of other sizes, interpolated linearly between the centres of cells."""
    if tuple(maps.shape[2:]) == tuple(places):
        return maps
    return functional.interpolate(maps, tuple(places), mode=LINEAR[len(places)])


def _maps(op: Convolution, parents: Parents, children: Tensor, *, is_literal: bool) -> Tensor:
    values = parents.values
    linked = _linked(op, parents.features, children).to(values.device)
    kernels = _kernels(op, parents.features, children).to(values.device)
    share = linked.to(values.dtype) / linked.sum(0).clamp(min=1)
    with torch.no_grad():
        one = _responses(op, values[:1, :1], kernels[:1], is_literal=is_literal)
        found = one.new_zeros(len(values), len(children), *one.shape[3:])
        for rows, some in _chunks(found, len(kernels)):
            response = _responses(op, values[rows, some], kernels[some], is_literal=is_literal)
            response = response.flatten(3)
            response.sub_(response.amax(3, keepdim=True)).exp_()
            # the softmax's denominator and the mean's, in one product
            weight = share[some] / response.sum(3)
            part = torch.einsum("rpel,rpe->rel", response, weight)
            found[rows] += part.view_as(found[rows])
    return found


def _responses(op: Convolution, values: Tensor, kernels: Tensor, *, is_literal: bool) -> Tensor:
    """Return each parent's response for each child, ``(rows, parents, children, *places)``.

    Parameters
    ----------
    op
        The convolution.
    values
        ``(rows, parents, *places)``.
    kernels
        ``(parents, children, *kernel)``.
    is_literal
        Whether the convolution is a full one with flipped kernels.
    """
    n_parents, n_children, *extent = kernels.shape
    weight = kernels.flatten(0, 1)[:, None]
    if is_literal:
        axes = tuple(range(2, weight.ndim))
        around = [size - 1 for size in extent]
        unit = [1] * len(extent)
        found = torch.convolution(
            values, weight.flip(axes), None, unit, around, unit, False, [0] * len(extent), n_parents
        )
    else:
        padded = functional.pad(values, op.margins) if op.margins else values
        own = kernels if op.transposed else weight
        found = torch.convolution(
            padded,
            own,
            None,
            op.stride,
            op.padding,
            op.dilation,
            op.transposed,
            op.output_padding,
            n_parents,
        )
    return found.view(len(values), n_parents, n_children, *found.shape[2:])


def _kernels(op: Convolution, features: Tensor, children: Tensor) -> Tensor:
    """Return the kernel from each parent to each child, ``(parents, children, *kernel)``."""
    weight = outward(op, op.weight)
    features, children = features.to(weight.device), children.to(weight.device)
    return weight[children[None, :], (features % weight.shape[1])[:, None]]


def _linked(op: Convolution, features: Tensor, children: Tensor) -> Tensor:
    """Return which child reads which parent, bool ``(parents, children)``: all within a group."""
    weight = outward(op, op.weight)
    of_child = children // (len(weight) // op.groups)
    return (features // weight.shape[1])[:, None] == of_child.to(features.device)[None, :]


def _chunks(found: Tensor, n_parents: int) -> list[tuple[slice, slice]]:
    """Return rows and parents that are computed together, so that memory is bounded."""
    most = CPU_ELEMENTS if found.device.type == "cpu" else ACCELERATOR_ELEMENTS
    each = max(1, math.prod(found.shape[1:]))
    at_once = max(1, most // each)
    some = list(pieces(n_parents, at_once))
    rows = list(pieces(len(found), max(1, at_once // max(1, min(n_parents, at_once)))))
    return [(row, part) for row in rows for part in some]


def _value(trace: Trace, structure: Structure, number: int) -> Tensor:
    """Return the value of a layer below, channels behind the rows; computed once for a batch."""
    below = structure.layers[number]
    value = trace.once(("value below", below.name), partial(trace.layer, below.name))
    return value.movedim(-1, 1) if below.kind == "linear" else value


def _picked(value: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
    return value[rows.to(value.device)[:, None], channels.to(value.device)]
