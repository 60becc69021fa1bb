"""Which neurons read a unit, found by changing its values and looking at what else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.causal.structure import structure_of
from explainers.operators import Normalise

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.structure import Structure, WeightedLayer
    from explainers.network import Network

Readers = set[tuple[str, int]]
"""Layer (or ``""`` for the outputs) and neuron (or output)."""


def readers_by_perturbing(
    network: Network, structure: Structure, values: dict[str, Tensor], layer: str, channel: int
) -> Readers:
    """Change one output channel of a layer, hold all other layers' outputs, and look around.

    Repeated with other noise, as rectifiers and gates may be off.
    """
    expected = readers_by_structure(structure, layer, channel)
    found: Readers = set()
    for scale in (5.0, -5.0, 1.0, -1.0, 0.2, 50.0, -50.0):
        found |= _readers(network, structure, values, layer, channel, scale)
        if found >= expected:
            break
    return found


def _readers(
    network: Network,
    structure: Structure,
    values: dict[str, Tensor],
    layer: str,
    channel: int,
    scale: float,
) -> Readers:
    held = {one.name for one in structure.layers}
    one = structure.layer(layer)
    changed = {layer: _noisy(values[layer], one, channel, scale)}
    found: Readers = set()
    for op in network.operators:
        if op.name == layer or not any(name in changed for name in op.inputs):
            continue
        if op.name in held:
            found |= _neurons_that_moved(structure.layer(op.name), changed, values)
            continue
        inputs = [changed.get(name, values[name]) for name in op.inputs]
        if isinstance(op, Normalise):
            made = values[op.name] + (inputs[0] - values[op.inputs[0]])
        else:
            made = op.run(*inputs)
        if not torch.equal(made, values[op.name]):
            changed[op.name] = made
    if network.output_name in changed:
        difference = changed[network.output_name] - values[network.output_name]
        moved = (difference != 0).any(0).nonzero().flatten().tolist()
        found |= {("", output) for output in moved}
    return found


def _noisy(value: Tensor, layer: WeightedLayer, channel: int, scale: float) -> Tensor:
    axis = 1 if layer.kind == "convolution" else -1
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(channel)).to(value)
    noise[0].abs_()
    moved = value.clone()
    chosen = moved.select(axis, channel)
    chosen += scale * value.std() * noise.select(axis, channel)
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
    values = network.run(inputs)
    generator = torch.Generator().manual_seed(0)
    for layer in structure.layers:
        for channel in torch.randperm(layer.n_outputs, generator=generator)[:n_channels].tolist():
            expected = readers_by_perturbing(network, structure, values, layer.name, channel)
            assert readers_by_structure(structure, layer.name, channel) == expected, layer.name
