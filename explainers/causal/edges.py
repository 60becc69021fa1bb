"""Weights of the edges of a causal graph: what setting W[e, features of n] alone does, n -> e.

A neuron's effect is joint, all of E at once; an edge has one e. To first order, summed over the
rows r of a class,

    sum_r TE_{n,e} ~ sum_{f of n} sum_k (u scale_e - W[e,f,k]) G[e,f,k]

with ``G = sum_r dY_r / dW`` one gradient in the weights for all the rows of a class, of the rows
and columns that are asked for: nothing is computed sample by sample. The estimates of a neuron's
edges sum to the neuron's own; they are exact where the logit is linear in the layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.causal.first_order import (
    rows_of,
    scale_of,
    value_of,
    walk_back,
    weight_changes,
)
from explainers.causal.interventions import Interventions
from explainers.operators import Convolution
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.causal.structure import WeightedLayer
    from explainers.trace import Trace


PAIRS = 2**16
"""Pairs of an edge and a row that are listed at once; interventions cut them smaller still."""


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of a layer: each pair of a cause and an effect of a class that has a weight.

    In order of class, cause and effect.
    """

    causes: Tensor
    """Bool ``(classes, n_neurons)``, on the CPU."""
    effects: Tensor
    """Bool ``(classes, n_outputs)``, on the CPU."""
    is_connected: Tensor
    """Bool ``(n_neurons, groups)``: whether outputs of a group of the layer read the neuron."""
    member: Tensor
    """Int64 ``(n_edges,)``: position of the class."""
    cause: Tensor
    """Int64 ``(n_edges,)``: the neuron n."""
    effect: Tensor
    """Int64 ``(n_edges,)``: the output e."""

    @classmethod
    def of(cls, layer: WeightedLayer, causes: Tensor, effects: Tensor) -> Edges:
        """Return the edges between the causes and the effects of each class.

        Parameters
        ----------
        layer
            Of the structure.
        causes
            Bool ``(classes, n_neurons)``.
        effects
            Bool ``(classes, n_outputs)``.
        """
        causes, effects = causes.cpu(), effects.cpu()
        is_connected = _connected(layer)
        return cls(causes, effects, is_connected, *between(causes, effects, is_connected))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.member)


def between(causes: Tensor, effects: Tensor, is_connected: Tensor) -> Tensor:
    """Return member, cause and effect of the edges of all classes as `Edges` has them, stacked.

    Parameters
    ----------
    causes, effects, is_connected
        As in `Edges`.
    """
    blocks = [
        _block(causes[member], effects[member], is_connected, member)
        for member in range(len(causes))
    ]
    return torch.cat([torch.zeros(3, 0, dtype=torch.int64), *blocks], 1)


def _connected(layer: WeightedLayer) -> Tensor:
    neuron_of = layer.neuron_of.cpu()
    groups = torch.arange(len(neuron_of)) // (len(neuron_of) // layer.groups)
    found = torch.zeros(layer.n_neurons, layer.groups, dtype=torch.bool)
    has_neuron = neuron_of >= 0
    found[neuron_of[has_neuron], groups[has_neuron]] = True
    return found


def _block(causes: Tensor, effects: Tensor, is_connected: Tensor, member: int) -> Tensor:
    """Return member, cause and effect of the edges of a class, ``(3, n_edges)``."""
    group_of = torch.arange(len(effects)) // (len(effects) // is_connected.shape[1])
    cause, effect = causes.nonzero()[:, 0], effects.nonzero()[:, 0]
    first, second = is_connected[cause][:, group_of[effect]].nonzero().T
    return torch.stack([torch.full_like(first, member), cause[first], effect[second]])


@torch.no_grad()
def edge_estimates(
    trace: Trace,
    layers: Sequence[WeightedLayer],
    edges: Mapping[str, Edges],
    member: Tensor,
    classes: Tensor,
    u: Mapping[str, float] | float = 0.0,
) -> dict[str, Tensor]:
    """Return the first-order effect of each edge, summed over the rows of its class, by layer.

    Parameters
    ----------
    trace
        Of the rows.
    layers
        Whose edges are asked about.
    edges
        Layer to its edges.
    member
        Position of the class that each row counts for, ``(rows,)``; -1 for none.
    classes
        Of which output the logit of a row is meant, ``(rows,)``.
    u
        What the weights are set to, for all layers or by layer.

    Returns
    -------
    dict
        Layer to float64 ``(n_edges,)``, in logits: sums over rows, so that shards add up.
    """
    found: dict[str, Tensor] = {}

    def estimate(layer: WeightedLayer, slope: Tensor) -> None:
        constant = value_of(u, layer.name)
        found[layer.name] = _summed(trace, layer, edges[layer.name], member.cpu(), slope, constant)

    walk_back(trace, layers, classes, estimate)
    return {layer.name: found[layer.name] for layer in layers}


@torch.no_grad()
def exact_edges(
    trace: Trace,
    layer: WeightedLayer,
    edges: tuple[Tensor, Tensor, Tensor],
    member: Tensor,
    classes: Tensor,
    u: float = 0.0,
) -> Tensor:
    """Return the total effect of each of some edges alone, summed over the rows of its class.

    Parameters
    ----------
    trace
        Of the rows.
    layer
        Of the structure.
    edges
        Member, cause and effect of each as in `Edges`, on the CPU, int64 ``(n_edges,)``.
    member, classes, u
        As in `edge_estimates`.

    Returns
    -------
    Tensor
        Float64 ``(n_edges,)``, in logits: an exact intervention for each edge and row.
    """
    device, of_class = trace.network.device, edges[0]
    member, classes = member.cpu(), classes.to(device)
    interventions = Interventions(trace.network, layer)
    reference = trace.output.gather(1, classes[:, None])[:, 0].double()
    sums = torch.zeros(len(of_class), dtype=torch.float64, device=device)
    for piece in pieces(len(of_class), max(1, PAIRS // max(1, trace.n_rows))):
        chosen, rows = (of_class[piece, None] == member).nonzero(as_tuple=True)
        cause, effect = (each[piece][chosen].to(device) for each in edges[1:])
        rows = rows.to(device)
        outcome = interventions.pairs(trace, rows, cause, effect, classes, u)
        moved = outcome.logit.double() - reference[rows]
        sums.index_add_(0, chosen.to(device) + piece.start, moved)
    return sums


def _summed(
    trace: Trace,
    layer: WeightedLayer,
    edges: Edges,
    member: Tensor,
    slope: Tensor,
    u: float,
) -> Tensor:
    axis, rows = rows_of(trace.network, layer, trace.n_rows)
    value = trace.values[layer.operator.inputs[0]]
    members = member.to(rows.device)[rows]
    n_edges = torch.bincount(edges.member, minlength=len(edges.causes)).tolist()
    parts = [torch.zeros(n, dtype=torch.float64, device=slope.device) for n in n_edges]
    for one in sorted(set(member[member >= 0].tolist())):
        if n_edges[one]:
            chosen = (members == one).nonzero()[:, 0]
            asked = _Asked.of(layer, edges, one, slope.device)
            of_rows = slope.index_select(axis, chosen), value.index_select(axis, chosen)
            parts[one] = _of_class(layer, asked, *of_rows, u)
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked of a layer for one class; indices int64."""

    effects: Tensor
    """``(n_effects,)``."""
    features: Tensor
    """``(n_features,)``: those of the causes."""
    cause_of: Tensor
    """``(n_features,)``: position of the feature's neuron among the causes."""
    is_connected: Tensor
    """Bool ``(n_causes, n_effects)``."""

    @classmethod
    def of(cls, layer: WeightedLayer, edges: Edges, member: int, device: torch.device) -> _Asked:
        causes, neuron_of = edges.causes[member], layer.neuron_of.cpu()
        features = ((neuron_of >= 0) & causes[neuron_of]).nonzero()[:, 0]
        position = causes.cumsum(0) - 1
        effects = edges.effects[member].nonzero()[:, 0]
        groups = effects // (layer.n_outputs // layer.groups)
        parts = (
            effects,
            features,
            position[neuron_of[features]],
            edges.is_connected[causes][:, groups],
        )
        return cls(*(part.to(device) for part in parts))


def _of_class(
    layer: WeightedLayer, asked: _Asked, slope: Tensor, value: Tensor, u: float
) -> Tensor:
    """Return the sums of the edges of a class, float64, given the values of its rows."""
    op = layer.operator
    if not isinstance(op, Convolution):
        of_effects = slope.flatten(0, -2).index_select(1, asked.effects)
        found = of_effects.T @ value.flatten(0, -2).index_select(1, asked.features)
        weights = found * _changes(layer, asked, u)
    elif layer.groups == 1:
        weights = _of_channels(op, asked, slope, value) * _changes(layer, asked, u)
        weights = weights.flatten(2).sum(2)
    else:
        weights = _of_groups(op, asked, slope, value, weight_changes(layer, u))
    n_causes = len(asked.is_connected)
    sums = torch.zeros(n_causes, len(asked.effects), dtype=torch.float64, device=weights.device)
    sums.index_add_(0, asked.cause_of, weights.double().T)
    return sums[asked.is_connected]


def _changes(layer: WeightedLayer, asked: _Asked, u: float) -> Tensor:
    """Return ``u scale - W`` of a layer without groups, ``(n_effects, n_features, *kernel)``."""
    op, scale = layer.operator, scale_of(layer)
    is_turned = isinstance(op, Convolution) and op.transposed
    weight = op.weight.transpose(0, 1) if is_turned else op.weight
    # the weights of linear maps may be many: no more of them are looked at than were asked for
    weight = weight[asked.effects[:, None], asked.features]
    if u == 0 or scale is None:
        return u - weight
    return u * scale[asked.effects].view(-1, *[1] * (weight.ndim - 1)) - weight


def _of_channels(op: Convolution, asked: _Asked, slope: Tensor, value: Tensor) -> Tensor:
    """Return the gradient ``(n_effects, n_features, *kernel)`` of a convolution without groups."""
    rows, columns = asked.effects, asked.features
    slope, value = slope.index_select(1, rows), value.index_select(1, columns)
    sizes = (len(columns), len(rows)) if op.transposed else (len(rows), len(columns))
    gradient = op.weight_gradient(slope, value, sizes)
    return gradient.transpose(0, 1) if op.transposed else gradient


def _of_groups(
    op: Convolution, asked: _Asked, slope: Tensor, value: Tensor, changes: Tensor
) -> Tensor:
    """Return ``(n_effects, n_features)`` sums over the kernel, zero where there is no weight."""
    gradient = op.weight_gradient(slope, value, changes.shape[:2])
    table = (gradient * changes).flatten(2).sum(2)
    inputs, outputs = value.shape[1] // op.groups, slope.shape[1] // op.groups
    rows, columns = asked.effects[:, None], asked.features
    is_read = rows // outputs == columns // inputs
    of_pairs = table[columns, rows % outputs] if op.transposed else table[rows, columns % inputs]
    return torch.where(is_read, of_pairs, 0)
