"""Derives the structure of a network: one walk with units in place of values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import torch

from explainers.causal.structure import (  # noqa: F401  # each enters its rules
    heads,
    passing,
    reducing,
    weighted,
)
from explainers.causal.structure.layers import Sources, Structure, WeightedLayer
from explainers.causal.structure.table import Setting, channels, refuse
from explainers.causal.structure.units import NOTHING, agreed
from explainers.inference import outside_inference_mode
from explainers.operators import Convolution, Input, Linear, Recurrent
from explainers.rules.sizes import is_of_sizes
from explainers.rules.table import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.causal.structure.table import Entry
    from explainers.causal.structure.units import Register, Units
    from explainers.network import Network
    from explainers.operators import Operator

_known: WeakKeyDictionary[Network, Structure] = WeakKeyDictionary()


@outside_inference_mode
def structure_of(network: Network) -> Structure:
    """Return the weighted layers of a network and who reads what, derived from its program.

    Every value is given the channels that it is made of: those of the last convolutions and linear
    maps before it, wherever norms, activations, pools, views, sums, products and joins take them.
    What a layer reads of them are its neurons. Derived once for a network, by one forward of its
    example. Where an operator has no rule, or mixes channels without weights, the layers that read
    it have a `WeightedLayer.refusal`; those behind them are as in any network.

    Raises
    ------
    NotImplementedError
        If the network is not a program, or the outputs are made of such an operator's value with
        no weighted layer in between.
    ValueError
        If no layer has weights.
    """
    if network not in _known:
        _known[network] = _derived(network)
    return _known[network]


def _derived(network: Network) -> Structure:
    setting = Setting(_shapes(network), network.device)
    outputs = _walked(network, setting)
    if outputs is None:
        raise ValueError(
            "no output of the network is made of channels of a convolution or linear map; causal "
            "graphs are about such layers, so give a network that has one in front of its outputs"
        )
    made = agreed(outputs, (0,))
    if made is None:
        refuse(network.operators[-1], "rows of the batch are made of different channels")
    rows = made.table[made.index.flatten().expand(network.n_outputs)]
    refusals = [entry.refusal for entry in setting.entries]
    of_outputs, refusal = _known_of(
        _sources(torch.arange(len(rows)), rows, setting.register), refusals
    )
    if refusal is not None:
        raise NotImplementedError(refusal)
    entries = []
    for entry in setting.entries:
        neuron_of, n_neurons, sources = _neurons(entry.features, setting.register)
        entries.append((neuron_of, n_neurons, *_known_of(sources, refusals)))
    levels = _levels([sources for _, _, sources, _ in entries], of_outputs)
    alive = [position for position, level in enumerate(levels) if level is not None]
    renumbered = torch.full((len(levels),), NOTHING)
    renumbered[alive] = torch.arange(len(alive))
    layers = []
    for position in alive:
        neuron_of, n_neurons, sources, refusal = entries[position]
        moved = _moved(sources, renumbered, network)
        neurons = (neuron_of.to(network.device), n_neurons)
        level = levels[position] or 0
        layer = _layer(network, setting.entries[position], neurons, moved, level)
        layers.append(replace(layer, refusal=refusal))
    return Structure(tuple(layers), _rounds(layers), _moved(of_outputs, renumbered, network))


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def seen(name: str, value: Tensor) -> None:
        shapes[name] = tuple(value.shape)

    network.show(network.example, {op.name for op in network.operators}, seen)
    return shapes


def _walked(network: Network, setting: Setting) -> Units | None:
    """Return the units of the output, with every layer on the way entered."""
    found: dict[str, Units | None] = {}
    output = network.output_name
    for op in network.operators:
        found[op.name] = _value(op, network, found, setting)
    return found[output]


def _value(
    op: Operator, network: Network, found: Mapping[str, Units | None], setting: Setting
) -> Units | None:
    if isinstance(op, Input) or op.name not in network.dependent or is_of_sizes(op):
        return None
    given = tuple(found[name] for name in op.inputs)
    read = [one for name, one in zip(op.inputs, given, strict=True) if name in op.sources]
    has_units = any(one is not None for one in read)
    if not has_units and not isinstance(op, Convolution | Linear | Recurrent):
        return None
    try:
        units: Units | None = channels.find(op)(op, given, setting)
    except NotImplementedError as refusal:
        return _unknown(op, given, found, setting, f"{refusal}{_culprit(op, network, found)}")
    return units


def _unknown(
    op: Operator,
    given: tuple[Units | None, ...],
    found: Mapping[str, Units | None],
    setting: Setting,
    refusal: str,
) -> Units | None:
    """Return units of an operator that could not tell them; what a layer makes is known anyway."""
    read = [found[name] for name in op.inputs if name in op.sources]
    if not isinstance(op, Convolution | Linear):
        return setting.unknown(op, read, setting.shapes[op.name], refusal)
    marked = setting.unknown(op, read, setting.shapes[op.inputs[0]], refusal)
    units: Units | None = channels.find(op)(op, (marked, *given[1:]), setting)
    return units


def _culprit(op: Operator, network: Network, found: Mapping[str, Units | None]) -> str:
    """Return words on the operator behind which channels no longer lie along one axis."""
    operators = {one.name: one for one in network.operators}
    mixed: Operator | None = op
    culprit = None
    while mixed is not None:
        names = [
            name
            for name in mixed.inputs
            if (units := found[name]) is not None and not _is_along_one_axis(units)
        ]
        mixed = operators[names[0]] if names else None
        culprit = mixed or culprit
    if culprit is None:
        return ""
    return f"; channels were mixed by {describe(culprit)} ({culprit.name!r})"


def _is_along_one_axis(units: Units) -> bool:
    n_axes = units.index.ndim
    return n_axes < 2 or any(
        agreed(units, [other for other in range(n_axes) if other != axis]) is not None
        for axis in range(n_axes)
    )


def _known_of(sources: Sources, refusals: list[str | None]) -> tuple[Sources, str | None]:
    """Return sources without marks of what is not known, and what the last of these says."""
    is_mark = torch.tensor([refusal is not None for refusal in refusals])[sources.layer]
    if not bool(is_mark.any()):
        return sources, None
    refusal = refusals[int(sources.layer[is_mark].max())]
    parts = (sources.neuron, sources.layer, sources.channel)
    return Sources(*(part[~is_mark] for part in parts)), refusal


def _neurons(features: Tensor, register: Register) -> tuple[Tensor, int, Sources]:
    """Return the neuron of each feature, how many there are, and what they stand for."""
    ordered = features.sort(1).values
    rows, group = torch.unique(ordered, dim=0, return_inverse=True)
    first = torch.full((len(rows),), len(features))
    first = first.scatter_reduce(0, group, torch.arange(len(features)), "amin")
    is_neuron = (rows != NOTHING).any(1)
    order = first[is_neuron].argsort()
    number = torch.full((len(rows),), NOTHING)
    number[is_neuron.nonzero().flatten()[order]] = torch.arange(len(order))
    sources = _sources(torch.arange(len(order)), rows[is_neuron][order], register)
    return number[group], len(order), sources


def _sources(groups: Tensor, rows: Tensor, register: Register) -> Sources:
    """Return the channels behind rows of units, ``(groups, width)``."""
    repeated = groups[:, None].expand_as(rows).flatten()
    group, unit = register.resolved(repeated, rows.flatten())
    return Sources(group, *register.places(unit))


def _levels(read: list[Sources], outputs: Sources) -> list[int | None]:
    """Return the level of each layer, None if the outputs do not depend on it."""
    levels: list[int | None] = [None] * len(read)
    for position in torch.unique(outputs.layer).tolist():
        levels[position] = 0
    for position in reversed(range(len(read))):
        level = levels[position]
        if level is None:
            continue
        for producer in torch.unique(read[position].layer).tolist():
            levels[producer] = max(levels[producer] or 0, level + 1)
    return levels


def _moved(sources: Sources, renumbered: Tensor, network: Network) -> Sources:
    parts = (sources.neuron, renumbered[sources.layer], sources.channel)
    return Sources(*(part.to(network.device) for part in parts))


def _layer(
    network: Network,
    entry: Entry,
    neurons: tuple[Tensor, int],
    sources: Sources,
    level: int,
) -> WeightedLayer:
    op = cast("Convolution | Linear", entry.operator)  # the others are marks
    held = network._layer(op.name)
    return WeightedLayer(
        name=op.name,
        kind="convolution" if isinstance(op, Convolution) else "linear",
        operator=op,
        unfolded=held.unfolded,
        norm=held.norm,
        neuron_of=neurons[0],
        n_neurons=neurons[1],
        n_outputs=entry.n_outputs,
        groups=op.groups if isinstance(op, Convolution) else 1,
        is_root=neurons[1] == 0,
        level=level,
        sources=sources,
    )


def _rounds(layers: list[WeightedLayer]) -> tuple[tuple[str, ...], ...]:
    last = max(layer.level for layer in layers)
    rounds = (
        tuple(one.name for one in layers if one.level == level and not one.is_root)
        for level in range(last + 1)
    )
    return tuple(names for names in rounds if names)
