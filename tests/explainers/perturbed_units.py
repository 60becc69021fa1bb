"""Which neurons read a unit, found by changing its values and looking at what else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.causal.structure import structure_of
from explainers.operators import Activation, Input, Normalise

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.structure import Structure, WeightedLayer
    from explainers.network import Network
    from explainers.operators import Operator

Readers = set[tuple[str, int]]
"""Layer (or ``""`` for the outputs) and neuron (or output)."""


def readers_by_perturbing(
    network: Network, structure: Structure, values: dict[str, Tensor], layer: str, channel: int
) -> Readers:
    """Change one output channel of a layer, hold all other layers' outputs, and look around."""
    held = {one.name for one in structure.layers}
    changed = {layer: _noisy(values[layer], structure.layer(layer), channel)}
    found: Readers = set()
    for op in network.operators:
        if op.name == layer or not any(name in changed for name in op.inputs):
            continue
        if op.name in held:
            found |= _neurons_that_moved(structure.layer(op.name), changed, values)
            continue
        made = _alive(op, [changed.get(name, values[name]) for name in op.inputs])
        if not torch.equal(made, values[op.name]):
            changed[op.name] = made
    if network.output_name in changed:
        difference = changed[network.output_name] - values[network.output_name]
        moved = (difference != 0).any(0).nonzero().flatten().tolist()
        found |= {("", output) for output in moved}
    return found


def _alive(op: Operator, inputs: list[Tensor]) -> Tensor:
    """Run an operator, an activation as one that rises everywhere and is never zero.

    By decree a norm hands each value on to itself alone.
    """
    if isinstance(op, Normalise):
        return inputs[0]
    if isinstance(op, Activation):
        return 1 + inputs[0] / (1 + inputs[0].abs())
    return op.run(*inputs)


def _values(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for op in network.operators:
        given = [inputs] if isinstance(op, Input) else [values[name] for name in op.inputs]
        values[op.name] = _alive(op, given)
    return values


def _noisy(value: Tensor, layer: WeightedLayer, channel: int) -> Tensor:
    axis = 1 if layer.kind == "convolution" else -1
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(channel)).to(value)
    noise[0].abs_()  # up, where a maximum may be another's
    moved = value.clone()
    chosen = moved.select(axis, channel)
    chosen += 5 * value.std() * noise.select(axis, channel)
    return moved


def _neurons_that_moved(
    reader: WeightedLayer, changed: dict[str, Tensor], values: dict[str, Tensor]
) -> Readers:
    name = reader.operator.inputs[0]
    if name not in changed:
        return set()
    axis = 1 if reader.kind == "convolution" else -1
    difference = (changed[name] - values[name]).movedim(axis, 0).flatten(1)
    features = (difference.abs() > 1e-12 * values[name].abs().max()).any(1)
    neurons = torch.unique(reader.neuron_of[features]).tolist()
    return {(reader.name, neuron) for neuron in neurons}


def readers_by_structure(structure: Structure, layer: str, channel: int) -> Readers:
    """The same, from the structure."""
    position = [one.name for one in structure.layers].index(layer)
    found: Readers = set()
    for name, sources in [
        *((one.name, one.sources) for one in structure.layers),
        ("", structure.outputs),
    ]:
        is_it = (sources.layer == position) & (sources.channel == channel)
        found |= {(name, neuron) for neuron in sources.neuron[is_it].tolist()}
    return found


def assert_structure_is_what_moves(network: Network, inputs: Tensor, n_channels: int) -> None:
    """Check some channels of every layer."""
    structure = structure_of(network)
    values = _values(network, inputs)
    generator = torch.Generator().manual_seed(0)
    for layer in structure.layers:
        for channel in torch.randperm(layer.n_outputs, generator=generator)[:n_channels].tolist():
            expected = readers_by_perturbing(network, structure, values, layer.name, channel)
            assert readers_by_structure(structure, layer.name, channel) == expected, layer.name
