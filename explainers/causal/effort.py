"""What learning causal graphs takes: interventions, passes through the network, and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explainers.causal.outline import dtype_of
from explainers.causal.structure import structure_of
from explainers.causal.tallying import numbers_of
from explainers.operators import Convolution, Linear

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from explainers.network import Network
    from explainers.operators import Operator

_NUMBER = 8
_PER_TALLY = 64
"""Bytes that a tally without bootstrap has for each class and neuron."""
_RESULTS = 20
"""Numbers that a result has for each class and neuron."""
_EDGE = 24
"""Bytes of an edge in a result; a state has its weight alone."""


@dataclass(frozen=True)
class Effort:
    """What exact interventions on all neurons of some layers take, for one sample."""

    n_interventions: int
    """One for each neuron."""
    n_passes: float
    """As many forward passes of the whole network have as many multiplications."""
    roots: tuple[str, ...]
    """Layers that are not tested, because they read the network's input only."""


def effort_of(network: Network, layers: Collection[str], share: float = 1.0) -> Effort:
    """Return what interventions take on a network.

    What lies behind a layer is computed again for each of its neurons; multiplications of weights
    are counted alone.

    Parameters
    ----------
    network
        A program.
    layers
        Those that are tested.
    share
        Of their neurons.
    """
    structure = structure_of(network)
    work = {op.name: _multiplications(network, op) for op in network.operators}
    total = sum(work.values())
    n_interventions, n_passes = 0, 0.0
    for layer in structure.layers:
        if layer.name in layers:
            n = math.ceil(share * layer.n_neurons)
            behind = sum(work[name] for name in _descendants(network, layer.operator.name))
            n_interventions += n
            n_passes += n * behind / max(total, 1)
    roots = tuple(each.name for each in structure.layers if each.is_root)
    return Effort(n_interventions, n_passes, roots)


def bytes_of(
    network: Network, scan: Any, layers: Collection[str], n_samples: int, n_shards: int
) -> Mapping[str, int]:
    """Return about how many bytes the rounds of a scan store: ``states`` and ``results``.

    A state has the classes alone of which its shard has samples, and of these what
    `explainers.causal.tallying` keeps.

    Parameters
    ----------
    network
        A program.
    scan
        Of causal graphs.
    layers
        Those that are tested.
    n_samples, n_shards
        Of the data set.
    """
    n_classes: int = network.n_outputs if scan.classes == "all" else len(scan.classes)
    n_chosen = min(n_samples, n_classes * (scan.n_samples + scan.n_held_out))
    present = min(n_shards * n_classes, n_chosen)
    sizes = {"states": 0, "results": 0}
    for layer in structure_of(network).layers:
        if layer.name in layers:
            # edges are among causes and effects, which are rarely more than a half of all
            edges = 0 if scan.edges == "none" else layer.n_neurons * layer.n_outputs // 4
            kept = min(edges, scan.max_edges)
            rows = min(n_samples, n_classes * scan.n_samples) * _row(network)
            swept = present * _PER_TALLY * (len(scan.sweep) + int(scan.n_held_out > 0))
            tested = min(rows, present * _statistics(scan)) + swept
            sizes["states"] += layer.n_neurons * tested + present * edges * _NUMBER
            sizes["results"] += n_classes * (layer.n_neurons * _NUMBER * _RESULTS + kept * _EDGE)
    return sizes


def largest(network: Network, scan: Any, layers: Collection[str]) -> int:
    """Return the bytes of the statistics of the widest layer, which are in memory at once."""
    n_classes: int = network.n_outputs if scan.classes == "all" else len(scan.classes)
    widths = [each.n_neurons for each in structure_of(network).layers if each.name in layers]
    each: int = min(scan.n_samples * _row(network), _statistics(scan))
    return n_classes * max(widths, default=0) * each


def _row(network: Network) -> int:
    """Return the bytes of a logit, a divergence and whether they are there."""
    size: int = dtype_of(network).itemsize
    return 2 * size + 1


def _statistics(scan: Any) -> int:
    """Return the bytes of the statistics of a class and neuron."""
    return _NUMBER * numbers_of(scan.rule, scan.n_bootstrap)


def _multiplications(network: Network, op: Operator) -> int:
    """Return the multiplications of weights of an operator, for one sample."""
    layout = network.layout(op.name)
    if layout is None or not isinstance(op, Convolution | Linear):
        return 0
    n_values = layout.n_places * math.prod(layout.shape)
    n_outputs = op.weight.shape[0]
    if isinstance(op, Convolution) and op.transposed:
        n_outputs = op.weight.shape[1] * op.groups
    return n_values * op.weight.numel() // n_outputs


def _descendants(network: Network, name: str) -> set[str]:
    """Return the operators that depend on the value of one."""
    found = {name}
    for op in network.operators:
        if found.intersection(op.inputs):
            found.add(op.name)
    return found - {name}
