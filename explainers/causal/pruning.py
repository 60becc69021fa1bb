"""Networks of which a class's graph is kept alone, or everything but it, or a graph by chance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch

from explainers import running
from explainers.operators import Convolution
from explainers.rules.pattern import inward, outward
from explainers.sampling.counted import seed_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.causal.graphs import Links
    from explainers.causal.structure import Structure, WeightedLayer
    from explainers.inputs.structure import Inputs
    from explainers.network import Network
    from explainers.reading.program import Program

Signs = Literal["positive", "both"]
Rest = Literal["zeroed", "kept"]


@dataclass(frozen=True, eq=False)
class Edges:
    """The links of one layer as flags: every cause is linked with every effect."""

    causes: Tensor
    """Bool, ``(n_neurons,)``."""
    effects: Tensor
    """Bool, ``(n_outputs,)``."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network some of whose weights are zero; the network itself stays as it is."""

    network: Network
    program: Program

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return logits, ``(batch, classes)``, without a gradient."""
        parts = self.network.parts(inputs)
        with torch.no_grad():
            values = self.network._entered(parts, {})
            return running.run(self.program, values, None)[self.program.output_name]


def edges_of(
    structure: Structure, graph: Mapping[str, Links], signs: Signs = "positive"
) -> dict[str, Edges]:
    """Return the edges of a class's graph in every layer that was tested for it.

    Parameters
    ----------
    structure
        Of the network.
    graph
        Links by layer: see `explainers.causal.graphs`.
    signs
        Whether causes that lower the logit, the negative ones, belong to the graph: as they do
        where the scan followed `both`.

    Raises
    ------
    ValueError
        If there is no such choice, or the graph is that of another network.
    """
    if signs not in get_args(Signs):
        raise ValueError(f"got causes {signs!r}, expected 'positive' or 'both'")
    found = {}
    for name, links in graph.items():
        if not links.n_tested:
            continue
        layer = layer_of(structure, name)
        chosen = [links.causes] + ([links.negative_causes] if signs == "both" else [])
        found[name] = Edges(
            causes=_flags(name, torch.cat(chosen), layer.n_neurons, layer),
            effects=_flags(name, links.effects, layer.n_outputs, layer),
        )
    return found


def layer_of(structure: Structure, name: str) -> WeightedLayer:
    """Return a layer of the structure that a graph names.

    Raises
    ------
    ValueError
        If the network has no such layer.
    """
    try:
        return structure.layer(name)
    except LookupError as error:
        raise ValueError(
            f"the graph has a layer {name!r}, which the network has not: it is that of another "
            "network; scan this one"
        ) from error


def random_edges(
    structure: Structure, edges: Mapping[str, Edges], label: int, seed: int | str
) -> dict[str, Edges]:
    """Return a graph of the same widths whose causes are drawn by chance.

    In every layer as many neurons are drawn as the graph has causes there, without replacement and
    all alike; effects follow from what was drawn above, as they do in the scan. A draw depends on
    seed, class and layer alone.

    Parameters
    ----------
    structure
        Of the network.
    edges
        Of the graph: see `edges_of`.
    label
        Its class.
    seed
        Names the draw.
    """
    effects = {name: flags[0] for name, flags in structure.starts(torch.tensor([label])).items()}
    drawn: dict[str, Edges] = {}
    for name in (name for level in structure.levels for name in level if name in edges):
        layer = structure.layer(name)
        none = torch.zeros(layer.n_outputs, dtype=torch.bool, device=layer.neuron_of.device)
        causes = _drawn(edges[name].causes, label, seed, name)
        drawn[name] = Edges(causes, effects.get(name, none))
        for producer, flags in structure.passed_on(name, causes[None]).items():
            known = effects.get(producer)
            effects[producer] = flags[0] if known is None else known | flags[0]
    return drawn


def pruned(
    network: Network,
    structure: Structure,
    edges: Mapping[str, Edges],
    *,
    keeps: Literal["graph", "complement"] = "graph",
    other_outputs: Rest = "zeroed",
) -> Pruned:
    r"""Return the network with a graph's edges alone, or without them.

    In every layer that has edges the weights of linked pairs stay, :math:`W_{E,C}`, and all
    others of the layer become zero; or the other way round. Biases and norms stay, and so do
    layers without edges whole: those that read the input, depthwise convolutions, and those that
    were not tested. Weights that read the input or a constant alone stay as well.

    Parameters
    ----------
    network
        A program.
    structure
        Of the network.
    edges
        Edges by layer.
    keeps
        What stays: the graph, or everything else.
    other_outputs
        Whether the graph loses the weights of other classes' outputs, or keeps them: the class's
        own logit is the same, but without them the others' are constants, so that probability and
        prediction say little.
    """
    program = network._readable()
    starts = structure.starts(torch.arange(network.n_outputs))
    weights = {}
    for name, each in edges.items():
        layer = structure.layer(name)
        keep = _linked(layer, each)
        if keeps == "complement":
            keep = ~keep
        else:
            keep |= _of_neurons(layer, layer.neuron_of < 0)
            if other_outputs == "kept" and name in starts:
                # rows that are outputs of the network, but not this class's
                others = starts[name].any(0).to(keep.device) & ~each.effects
                keep |= _by_output(others, keep)
        weights[name] = _masked(layer, keep)
    operators = tuple(
        replace(op, weight=weights[op.name]) if op.name in weights else op  # type: ignore[call-arg]
        for op in program.operators
    )
    return Pruned(network, replace(program, operators=operators))


def _flags(name: str, indices: Tensor, size: int, layer: WeightedLayer) -> Tensor:
    if len(indices) and int(indices.max()) >= size:
        raise ValueError(
            f"the graph has a unit {int(indices.max())} in layer {name!r}, which has {size}: it is "
            "that of another network; scan this one"
        )
    flags = torch.zeros(size, dtype=torch.bool, device=layer.neuron_of.device)
    flags[indices.to(flags.device)] = True
    return flags


def _drawn(causes: Tensor, label: int, seed: int | str, layer: str) -> Tensor:
    """Return as many flags as there are causes, at other places."""
    numbers = torch.Generator().manual_seed(seed_of(f"{seed}\0{label}\0{layer}"))
    order = torch.randperm(len(causes), generator=numbers).to(causes.device)
    flags = torch.zeros_like(causes)
    flags[order[: int(causes.sum())]] = True
    return flags


def _linked(layer: WeightedLayer, edges: Edges) -> Tensor:
    """Return which weights, outputs first, are those of linked pairs: ``(out, in / groups)``."""
    of_causes = _of_neurons(layer, edges.causes[layer.neuron_of.clamp(min=0)])
    return of_causes & _of_neurons(layer, layer.neuron_of >= 0) & edges.effects[:, None]


def _of_neurons(layer: WeightedLayer, features: Tensor) -> Tensor:
    """Return flags of features as flags of weights, ``(out, in / groups)``."""
    by_group = features.view(layer.groups, -1)
    return by_group.repeat_interleave(layer.n_outputs // layer.groups, 0)


def _by_output(outputs: Tensor, like: Tensor) -> Tensor:
    return outputs[:, None].expand_as(like)


def _masked(layer: WeightedLayer, keep: Tensor) -> Tensor:
    op = layer.operator
    weight = outward(op, op.weight)
    n_axes = weight.ndim - 2 if isinstance(op, Convolution) else 0
    keep = keep.to(weight.device).view(*keep.shape, *[1] * n_axes)
    masked = inward(op, weight.where(keep, 0.0))
    is_picture = masked.ndim == 4
    return masked.contiguous(memory_format=torch.channels_last) if is_picture else masked
