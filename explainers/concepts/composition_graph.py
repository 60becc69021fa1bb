"""The composition of a concept as a graph: rows of tables, JSON, GraphML."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from networkx import DiGraph


@dataclass(frozen=True)
class Node:
    """A concept that something arrived at."""

    row: int
    """Of the batch: whose graph it is in."""
    layer: str
    """As it was asked for."""
    concept: int
    """Its number in the layer."""
    depth: int
    """How many layers it is behind the one that is decomposed, on the shortest way."""
    relevance: float
    """Sum of what arrived at it on the edges of the graph."""

    @property
    def name(self) -> str:
        """Names it among those of a sample."""
        return f"{self.layer}:{self.concept}"


@dataclass(frozen=True)
class Edge:
    """A concept, and a lower one that it is made of."""

    row: int
    """Of the batch: whose graph it is in."""
    layer: str
    """Of the upper concept."""
    concept: int
    """The upper concept."""
    lower_layer: str
    """Of the lower concept."""
    lower_concept: int
    """The lower concept."""
    depth: int
    """Of the lower concept."""
    relevance: float
    """That arrives at the lower concept from the upper one."""
    weight: float
    """The same, divided by the sum of amounts over the layer's concepts if that was asked for."""


@dataclass(frozen=True)
class Composition:
    """Which lower concepts make a concept, for each sample of a batch."""

    tops: tuple[Node, ...]
    """The concept that is decomposed, of each sample in order."""
    edges: tuple[Edge, ...]
    """From upper to lower layers."""
    is_lowest: bool = False
    """Whether no layer that was looked at lies below the one that is decomposed: no edges then."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per edge, for tables."""
        return [asdict(edge) for edge in self.edges]

    def nodes(self, row: int = 0) -> list[Node]:
        """Return the concepts in the graph of a sample: the one that is decomposed first."""
        found = {self.tops[row].name: self.tops[row]}
        for edge in self.edges:
            if edge.row == row:
                name = f"{edge.lower_layer}:{edge.lower_concept}"
                so_far = found[name].relevance if name in found else 0.0
                relevance = so_far + edge.relevance
                lower = (edge.lower_layer, edge.lower_concept, edge.depth, relevance)
                found[name] = Node(row, *lower)
        return list(found.values())

    def to_mapping(self, row: int = 0) -> dict[str, Any]:
        """Return the graph of a sample as node-link data, which `networkx.node_link_graph` reads.

        Edges lead from a concept to those that it is made of.
        """
        nodes = [
            {
                "id": node.name,
                "layer": node.layer,
                "concept": node.concept,
                "depth": node.depth,
                "relevance": node.relevance,
            }
            for node in self.nodes(row)
        ]
        edges = [
            {
                "source": f"{edge.layer}:{edge.concept}",
                "target": f"{edge.lower_layer}:{edge.lower_concept}",
                "relevance": edge.relevance,
                "weight": edge.weight,
            }
            for edge in self.edges
            if edge.row == row
        ]
        top = {"top": self.tops[row].name}
        return {
            "directed": True,
            "multigraph": False,
            "graph": top,
            "nodes": nodes,
            "edges": edges,
        }

    def to_json(self, row: int = 0) -> str:
        """Return the graph of a sample as JSON."""
        return json.dumps(self.to_mapping(row), indent=1)

    def to_networkx(self, row: int = 0) -> DiGraph:
        """Return the graph of a sample for networkx.

        Raises
        ------
        ImportError
            If networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise ImportError(
                "graphs in GraphML need the package networkx, which is not installed; "
                "run: pip install 'xpipe-xai[concepts]', or take JSON"
            ) from error
        return networkx.node_link_graph(self.to_mapping(row), edges="edges")

    def to_graphml(self, row: int = 0) -> str:
        """Return the graph of a sample as GraphML, which drawing programs read.

        Raises
        ------
        ImportError
            If networkx is not installed.
        """
        graph = self.to_networkx(row)
        import networkx

        return "\n".join(networkx.generate_graphml(graph))
