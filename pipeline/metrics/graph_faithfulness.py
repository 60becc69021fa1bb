"""How much of a class's logit its causal graph alone keeps, against graphs by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch

from explainers.causal.graphs import graphs_of
from explainers.causal.pruning import Rest, Signs, edges_of, pruned, random_edges
from explainers.causal.structure import structure_of
from pipeline.metrics.metric import Case, Direction, Metric, Space, register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.causal.pruning import Edges
    from explainers.causal.structure import Structure
    from explainers.trace import Trace

_KINDS = ("full", "graph", "random", "complement")


@register("graph_faithfulness")
@dataclass(frozen=True)
class GraphFaithfulness(Metric):
    r"""What is left of a class when all weights but those of its causal graph are zero.

    The experiment that Ahmad et al. 2023 (arXiv:2305.08950) prepare: in every layer that the
    graph was tested in, only weights from causes to effects stay, :math:`W_{E,C}`; biases and norms
    stay, and layers that read the input. The same is done with random graphs of the same widths,
    and the other way round: the graph's weights become zero and all else stays, its complement.

    For each of ``full`` (the network as it is), ``graph``, ``random`` (the mean over draws) and
    ``complement`` there are ``<kind>_logit`` of the class, ``<kind>_probability``, and
    ``<kind>_accuracy``, 1 where the class has the largest output, else 0; the class is that of the
    target. The headline ``gain`` is ``graph_logit - random_logit``: above zero for graphs that keep
    more than chance, in units of logits. ``drop`` is ``full_logit - complement_logit``, what is
    lost without the graph; ``beaten`` is the share of random graphs that keep less of the logit
    than the graph does.

    Scored for scans: no map is read. It takes ``n_random + 2`` forward passes. NaN for classes
    without a graph, or with an empty one.
    """

    n_random: int = 8
    """Random graphs for each class; drawn from the run's seed, the class and the layer."""
    causes: Signs = "positive"
    """Which causes are the graph's: `both` where the scan follows both."""
    other_outputs: Rest = "kept"
    """Weights of the other classes' outputs, for graphs and random graphs alike: `kept`, so that
    probability and accuracy compare the class with what the others make of the same units; or
    `zeroed`, whereupon the other logits are constants. The class's own logit is the same."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "gain"
    requires: ClassVar[frozenset[str]] = frozenset({"network", "graph"})
    shares: ClassVar[frozenset[str]] = frozenset(
        {"beaten", *(f"{kind}_accuracy" for kind in _KINDS)}
    )
    directions: ClassVar[Mapping[str, Direction]] = {"drop": "higher", "beaten": "higher"}

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or chosen."""
        if self.n_random < 1:
            raise ValueError(f"got n_random {self.n_random!r}, expected at least 1")
        if self.causes not in get_args(Signs):
            raise ValueError(f"got causes {self.causes!r}, expected 'positive' or 'both'")
        if self.other_outputs not in get_args(Rest):
            raise ValueError(
                f"got other_outputs {self.other_outputs!r}, expected 'kept' or 'zeroed'"
            )

    @property
    def direction(self) -> Direction:
        """A graph that keeps much is good."""
        return "higher"

    @property
    def space(self) -> Space:
        """The headline is of logits."""
        return "logit"

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return what is left of each sample's class; maps are not read.

        Raises
        ------
        ValueError
            If there is no graph, or it is that of another network.
        """
        trace = case.network_trace()
        if case.graph is None:
            raise ValueError(
                f"got no graph, expected one: pass graph=, the result of "
                f"explainers.scan(model, 'causal_graph', loader), to {self.name}"
            )
        graphs, structure = graphs_of(case.graph), structure_of(trace.network)
        classes = trace.cotangent(case.target).argmax(1)
        logits = trace.output.new_full((self.n_random + 3, *trace.output.shape), torch.nan)
        for label in torch.unique(classes).tolist():
            edges = edges_of(structure, graphs.get(label, {}), self.causes)
            if any(bool(each.causes.any()) for each in edges.values()):
                rows = (classes == label).nonzero()[:, 0]
                logits[:, rows] = self._logits(trace, structure, edges, label, rows)
        return _columns(logits, classes)

    def _logits(
        self,
        trace: Trace,
        structure: Structure,
        edges: Mapping[str, Edges],
        label: int,
        rows: Tensor,
    ) -> Tensor:
        """Return outputs of rows of one class, ``(2 + 1 + n_random, rows, classes)``.

        Of the network, without the graph, of the graph and of random ones.
        """
        network = trace.network
        inputs = network.structure.filled([part[rows] for part in trace.parts.values()])
        found = [trace.output[rows]]
        without = pruned(network, structure, edges, keeps="complement")
        found.append(without(inputs))
        for each in self._graphs(structure, edges, label, trace.seed):
            kept = pruned(network, structure, each, other_outputs=self.other_outputs)
            found.append(kept(inputs))
        return torch.stack(found)

    def _graphs(
        self, structure: Structure, edges: Mapping[str, Edges], label: int, seed: int
    ) -> Iterator[Mapping[str, Edges]]:
        yield edges
        for draw in range(self.n_random):
            yield random_edges(structure, edges, label, f"{seed}/{draw}")


def _columns(logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Return what is said of outputs ``(networks, rows, classes)``, random ones from 3 on."""
    index = classes.expand(len(logits), -1)[:, :, None]
    of_class = logits.gather(2, index)[:, :, 0]
    is_class = (logits.argmax(2) == classes).to(logits.dtype).where(~of_class.isnan(), torch.nan)
    measured = {
        "logit": of_class,
        "probability": logits.softmax(2).gather(2, index)[:, :, 0],
        "accuracy": is_class,
    }
    found: dict[str, Tensor] = {}
    for name, values in measured.items():
        full, complement, graph = values[:3]
        by_kind = dict(zip(_KINDS, (full, graph, values[3:].mean(0), complement), strict=True))
        found |= {f"{kind}_{name}": each for kind, each in by_kind.items()}
    fewer = (of_class[3:] < of_class[2]).to(logits.dtype)
    return {
        "gain": found["graph_logit"] - found["random_logit"],
        "drop": found["full_logit"] - found["complement_logit"],
        "beaten": fewer.mean(0).where(~of_class[2].isnan(), torch.nan),
        **found,
    }
