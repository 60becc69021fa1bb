"""A causal graph as GraphML (Brandes et al. 2001), which graph programs read."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LINK, FEEDS = "link", "feeds"
"""Kinds of edges: weights of a layer, and what its neurons stand for."""

Edge = tuple[str, str, dict[str, Any]]


def neuron(layer: str, index: int) -> str:
    """Return the id of what a layer reads."""
    return f"{layer}<{index}"


def unit(layer: str, channel: int) -> str:
    """Return the id of what a layer makes."""
    return f"{layer}>{channel}"


def graphml(document: Mapping[str, Any]) -> bytes:
    """Return the graph of a document of `documents` as a GraphML file.

    Nodes are the neurons of each layer, ``layer<index``, with the numbers that the document has of
    them, and units, ``layer>channel``: the layer's effects. Edges of kind ``link`` go from a neuron
    to a unit of its layer, with their weight; those of kind ``feeds`` from a unit to the neurons of
    layers above that stand for it. Where no edge of a layer was weighed, every cause is linked with
    every effect, as they were intervened on, without a weight.

    Raises
    ------
    ImportError
        If networkx is not installed.
    """
    try:
        import networkx
        from networkx.readwrite.graphml import write_graphml_xml
    except ImportError as error:
        raise ImportError(
            "GraphML is written by networkx, which is not installed; "
            "`pip install 'xpipe-xai[causal]'` installs it"
        ) from error
    graph = networkx.DiGraph(**_known(document, leave_out=("layers", "provenance")))
    for layer in document["layers"]:
        for name, attributes in _nodes(layer):
            graph.add_node(name, **attributes)
    for layer in document["layers"]:
        for start, end, attributes in _edges(layer):
            if start in graph and end in graph:
                graph.add_edge(start, end, **attributes)
    out = BytesIO()
    # not write_graphml: its bytes depend on whether lxml is installed
    write_graphml_xml(graph, out)
    return out.getvalue()


def _nodes(layer: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    where = {"layer": layer["name"]}
    for node in layer["nodes"]:
        own = _known(node, leave_out=("id", "sources"))
        own |= {"side": "neuron", "index": node["id"]}
        yield neuron(layer["name"], node["id"]), {**where, **own}
    for channel in layer["effects"]:
        yield unit(layer["name"], channel), {**where, "side": "unit", "index": channel}


def _edges(layer: Mapping[str, Any]) -> Iterator[Edge]:
    name = layer["name"]
    for edge in layer["edges"] or _joint(layer):
        start, end = neuron(name, edge["cause"]), unit(name, edge["effect"])
        yield start, end, {"kind": LINK} | _known(edge, leave_out=("cause", "effect"))
    for node in layer["nodes"]:
        for of_layer, channel in node["sources"]:
            yield unit(of_layer, channel), neuron(name, node["id"]), {"kind": FEEDS}


def _joint(layer: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    for node in layer["nodes"]:
        if node.get("sign"):
            for channel in layer["effects"]:
                yield {"cause": node["id"], "effect": channel}


def _known(values: Mapping[str, Any], leave_out: tuple[str, ...]) -> dict[str, Any]:
    """Return the plain values: GraphML has no lists, and says nothing of what is not known."""
    return {
        name: value
        for name, value in values.items()
        if name not in leave_out and isinstance(value, bool | int | float | str)
    }
