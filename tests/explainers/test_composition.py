"""Compositions of concepts, against one masked walk after the other and sums by hand."""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from explainers import Network, Target, Trace
from explainers.composites.composed import Composed
from explainers.concepts.composition import Decomposer
from explainers.concepts.frontier import depths, frontiers
from explainers.rules.walking import Course

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.concepts.composition_graph import Composition

# a stabiliser of 1e-12 beside denominators of 1e-3 and more, through five layers
CLOSE = {"rel": 1e-7, "abs": 1e-9}
EVERYTHING = (99,) * 4


class Branches(nn.Module):
    """A residual block with a module that is used twice, and a head; without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, bias=False)
        self.inner = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(3, 4, 2, bias=False)
        self.head = nn.Linear(4 * 9, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.inner(self.inner(x).relu()) + x
        return self.head(self.outer(x).relu().flatten(1))


@functools.cache
def network() -> Network:
    torch.manual_seed(0)
    return Network(Branches().double(), inputs())


def inputs() -> Tensor:
    return torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


RULES = Composed(rules={"type:Convolution": "epsilon"}, epsilon=1e-12, stabiliser=1e-12)


def choose(of: Network) -> Any:
    return RULES.resolved.choose(of)


def composed(
    target: Target | None = None, given: Tensor | None = None, **fields: Any
) -> Composition:
    trace = Trace(network(), inputs() if given is None else given)
    return Decomposer(**fields).composition(trace, choose(network()), target)


def slowly(
    row: int, layer: str, concept: int, width: tuple[int, ...]
) -> dict[tuple[str, ...], float]:
    """One walk for each concept, where a concept has only what arrives from the one above it."""
    of = network()
    trace = Trace(of, inputs()[row : row + 1])
    below = frontiers(of, ("stem", "inner", "inner#1", "outer", "head"))

    def masked(value: Tensor, kept: int) -> Tensor:
        found = torch.zeros_like(value)
        found[:, kept] = value[:, kept]
        return found

    found: dict[tuple[str, ...], float] = {}
    pending = {(layer, concept): masked(trace.values[layer], concept)}
    for name in [op.name for op in reversed(of.operators)]:
        for upper, relevance in [item for item in pending.items() if item[0][0] == name]:
            level = depths(below, layer)[name]
            if level >= len(width):
                continue
            for lower in below[name]:
                kept: dict[str, Tensor] = {}
                others = dict.fromkeys(below[name], torch.zeros_like)
                course = Course(of, choose(of), ends=[lower], masks=others)
                course.carry(trace.values, {name: relevance}, {lower}, kept)
                total = kept[lower].flatten(2).sum(2)[0]
                for which in total.argsort(descending=True)[: width[level]].tolist():
                    found[(f"{upper[0]}:{upper[1]}", f"{lower}:{which}")] = float(total[which])
                    more = masked(kept[lower], which)
                    pending[lower, which] = pending.get((lower, which), 0) + more
    return found


def test_the_frontier_stops_at_layers_and_goes_around_them() -> None:
    asked = ("stem", "inner", "inner#1", "outer", "head")
    below = frontiers(network(), asked)
    assert below == {
        "stem": (),
        "inner": ("stem",),
        "inner#1": ("inner",),
        "outer": ("stem", "inner#1"),
        "head": ("outer",),
    }
    assert depths(below, "outer") == {"outer": 0, "stem": 1, "inner#1": 1, "inner": 2}


@pytest.mark.parametrize("width", [(2,), (2, 1), (3, 2, 1)])
def test_edges_are_those_of_one_walk_after_the_other(width: tuple[int, ...]) -> None:
    numbers = torch.tensor([0, 3, 1])
    found = composed(layer="outer", concept=numbers, width=width, start="activation")
    for row, concept in enumerate(numbers.tolist()):
        mapping = found.to_mapping(row)
        edges = {(edge["source"], edge["target"]): edge["relevance"] for edge in mapping["edges"]}
        assert edges == pytest.approx(slowly(row, "outer", concept, width), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("start", ["target", "activation"])
def test_what_arrives_below_a_concept_sums_to_its_relevance(start: Any) -> None:
    found = composed(
        layer="head", concept=1, width=EVERYTHING, start=start, target=Target("index", 1)
    )
    for row in range(3):
        nodes = found.nodes(row)
        assert {node.layer for node in nodes} == {"head", "outer", "stem", "inner", "inner#1"}
        for node in nodes:
            parts = [
                edge.relevance
                for edge in found.edges
                if (edge.row, edge.layer, edge.concept) == (row, node.layer, node.concept)
            ]
            if parts:
                assert sum(parts) == pytest.approx(node.relevance, **CLOSE)
        total = sum(node.relevance for node in nodes if node.layer == "stem")
        assert total == pytest.approx(nodes[0].relevance, **CLOSE)


def test_by_default_it_is_the_concept_most_relevant_to_the_prediction() -> None:
    found = composed(layer="outer")
    trace = Trace(network(), inputs())
    start = trace.cotangent(Target()) * trace.output
    kept: dict[str, Tensor] = {}
    Course(network(), choose(network()), ends=["outer"]).carry(
        trace.values, {network().output_name: start}, {"outer"}, kept
    )
    total = kept["outer"].sum((2, 3))
    assert [top.concept for top in found.tops] == total.argmax(1).tolist()
    assert [top.relevance for top in found.tops] == pytest.approx(total.amax(1).tolist())


def weights(found: Composition, row: int) -> dict[tuple[str, str], float]:
    edges = found.to_mapping(row)["edges"]
    return {(edge["source"], edge["target"]): edge["weight"] for edge in edges}


def test_a_batch_is_as_its_samples_are() -> None:
    whole = composed(layer="outer", width=(2, 2))
    for row in range(3):
        alone = composed(layer="outer", width=(2, 2), given=inputs()[row : row + 1])
        assert weights(alone, 0) == pytest.approx(weights(whole, row), rel=1e-9, abs=1e-12)


def test_rows_that_are_carried_apart_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    together = composed(layer="outer", width=(3, 3))
    monkeypatch.setattr("explainers.concepts.decomposing.CHUNK_BYTES", 1)
    apart = composed(layer="outer", width=(3, 3))
    for row in range(3):
        assert weights(apart, row) == pytest.approx(weights(together, row), rel=1e-9, abs=1e-12)


def test_weights_are_divided_by_the_amounts_of_the_layer() -> None:
    all_ = composed(layer="outer", concept=2, width=(99,))
    few = composed(layer="outer", concept=2, width=(1,))
    raw = composed(layer="outer", concept=2, width=(1,), abs_norm=False)
    for edge, plain in zip(few.edges, raw.edges, strict=True):
        amounts = [
            abs(one.relevance)
            for one in all_.edges
            if (one.row, one.lower_layer) == (edge.row, edge.lower_layer)
        ]
        assert edge.weight == pytest.approx(edge.relevance / (sum(amounts) + 1e-10))
        assert plain.weight == plain.relevance == edge.relevance


def test_directions_along_the_axes_are_channels() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    # of two patterns the first counts
    asked = {"stem": {"directions": axes}, "inner*": {"directions": axes}, "inner": "tokens"}
    of_channels = composed(layer="outer", width=(2, 2))
    of_axes = composed(layer="outer", width=(2, 2), concepts=asked)
    for row in range(3):
        assert weights(of_axes, row) == pytest.approx(weights(of_channels, row), rel=1e-9)


def test_a_dead_concept_has_no_edges() -> None:
    found = composed(layer="outer", concept=0, given=torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    assert found.edges == ()
    assert [node.relevance for node in found.nodes()] == [0.0]


def test_graphs_are_read_back_by_networkx() -> None:
    networkx = pytest.importorskip("networkx")
    found = composed(layer="outer", concept=1, width=(2, 2))
    mapping = found.to_mapping(2)
    read = networkx.node_link_graph(json.loads(found.to_json(2)), edges="edges")
    again = networkx.parse_graphml(found.to_graphml(2))
    for graph in (read, again):
        assert dict(graph.nodes(data=True)).keys() == {node["id"] for node in mapping["nodes"]}
        for edge in mapping["edges"]:
            attributes = graph.edges[edge["source"], edge["target"]]
            assert attributes["relevance"] == pytest.approx(edge["relevance"])
            assert attributes["weight"] == pytest.approx(edge["weight"])
        assert graph.nodes["outer:1"]["depth"] == 0
        assert graph.graph["top"] == "outer:1"
        assert networkx.is_directed_acyclic_graph(graph)


def test_without_networkx_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"xpipe-xai\[concepts\]"):
        composed(layer="outer").to_graphml()


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"layer": "inne"}, LookupError, "inner"),
        ({"layer": "outer", "concept": 4}, ValueError, "choose from 0 to 3"),
        ({"layer": "outer", "width": ()}, ValueError, "a number for each level"),
        ({"layer": "outer", "width": (0,)}, ValueError, "at least 1"),
        ({"layer": "outer", "start": "top"}, ValueError, "'activation'"),
    ],
)
def test_what_does_not_exist_is_refused(
    fields: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        composed(**fields)
