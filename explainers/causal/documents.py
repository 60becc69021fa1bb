"""Causal graphs as documents: one mapping of plain values for each class, as JSON has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from explainers.causal.graphs import graphs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.causal.graphs import Links
    from explainers.causal.structure import Structure, WeightedLayer

FORMAT = "xpipe causal graph, version 1"
"""Value of ``format``; another form will have another."""

OF_NODES = (
    "sign",
    "te",
    "te_low",
    "te_high",
    "relative",
    "divergence",
    "statistic",
    "p",
    "q",
    "frequency",
    "margin",
    "is_borderline",
    "held_out_te",
    "held_out_p",
    "held_out_q",
    "is_confirmed",
)
"""Arrays over the neurons of a layer that nodes are described by, as far as there are such."""
OF_LAYERS = (
    "how",
    "u",
    "n",
    "n_held_out",
    "jaccard",
    "nogueira",
    "recall",
    "recall_of_strongest",
    "n_audited",
    "screen_correlation",
)
"""Plain values of a layer, likewise."""
OF_SWEEPS = ("u", "how", "n_causes", "n_negative_causes", "jaccard", "nogueira")
_FLAGS = ("is_borderline", "is_confirmed")
_WHOLE = ("sign", "n", "n_held_out", "n_audited")

Document = dict[str, Any]


def documents(
    result: Mapping[Any, Any], structure: Structure, facts: Mapping[str, Any]
) -> Iterator[tuple[str, Document]]:
    """Yield the class, as a string, and the document of each graph.

    A document has ``class``, its ``name`` (None: whoever knows it puts it in), what `facts` says,
    ``n`` and ``n_held_out``, the ``samples`` and ``held_out_samples`` that it was learned from,
    ``n_seen`` and ``n_correct`` of the class, and ``layers`` in execution order: each with
    ``name``, ``kind``, ``n_inputs`` (neurons), ``n_outputs``, ``level``, ``is_root``, ``n_tested``,
    ``effects`` and values of `OF_LAYERS`; ``nodes``, which are the causes of either sign and those
    that are borderline, each with ``id``, the values of `OF_NODES` and ``sources``, the channels
    that it stands for as pairs of layer and channel; ``n_links``, causes times effects; and
    ``edges``, the strongest first, each with ``cause``, ``effect`` and ``weight``. What is NaN or
    infinite is None.

    Parameters
    ----------
    result
        Of the scan `causal_graph`, as the library has it.
    structure
        Of the network.
    facts
        Plain values that all graphs share: rule, level.
    """
    sources: dict[str, dict[int, list[list[Any]]]] = {}
    for position, (label, links) in enumerate(graphs_of(result).items()):
        layers = [
            _layer(each, links[each.name], result[label][each.name], sources, structure)
            for each in structure.layers
            if each.name in links
        ]
        samples = _samples(result.get("samples", {}), label, position)
        head = {"format": FORMAT, "class": label, "name": None}
        yield str(label), {**head, **facts, **samples, "layers": layers}


def _samples(samples: Mapping[str, Any], label: int, position: int) -> Document:
    """Return which samples of a class there were."""
    found: Document = {}
    if "sample" in samples:
        of_class = torch.as_tensor(samples["label"]) == label
        is_held_out = torch.as_tensor(samples["is_held_out"]).bool()
        index = torch.as_tensor(samples["sample"])
        chosen, held_out = index[of_class & ~is_held_out], index[of_class & is_held_out]
        found = {"n": len(chosen), "n_held_out": len(held_out)}
        found |= {"samples": chosen.tolist(), "held_out_samples": held_out.tolist()}
    for name in ("seen", "correct"):
        if name in samples:
            found[f"n_{name}"] = int(samples[name][position])
    return found


def _layer(
    layer: WeightedLayer,
    links: Links,
    values: Mapping[str, Any],
    sources: dict[str, dict[int, list[list[Any]]]],
    structure: Structure,
) -> Document:
    found: Document = {
        "name": layer.name,
        "kind": layer.kind,
        "n_inputs": layer.n_neurons,
        "n_outputs": layer.n_outputs,
        "level": layer.level,
        "is_root": layer.is_root,
        "n_tested": int(torch.as_tensor(values["tested"]).sum()) if "tested" in values else 0,
        "effects": links.effects.tolist(),
    }
    found |= {name: _plain(values[name], name) for name in OF_LAYERS if name in values}
    if "sweep" in values:
        swept = values["sweep"]
        found["sweep"] = {name: _plain(swept[name], name) for name in OF_SWEEPS if name in swept}
    if layer.name not in sources:
        sources[layer.name] = _sources(layer, structure)
    found["nodes"] = _nodes(values, sources[layer.name])
    n_causes = len(links.causes) + len(links.negative_causes)
    return found | {"n_links": n_causes * len(links.effects), "edges": _edges(values)}


def _nodes(values: Mapping[str, Any], sources: Mapping[int, list[list[Any]]]) -> list[Document]:
    """Return the causes of either sign, and what nearly is one."""
    if "sign" not in values:
        return []
    is_shown = torch.as_tensor(values["sign"]) != 0
    if "is_borderline" in values:
        is_shown = is_shown | torch.as_tensor(values["is_borderline"]).bool()
    ids: list[int] = is_shown.nonzero()[:, 0].tolist()
    columns = {
        name: _plain(torch.as_tensor(values[name])[is_shown], name)
        for name in OF_NODES
        if name in values
    }
    return [
        {
            "id": each,
            **{name: column[row] for name, column in columns.items()},
            "sources": sources.get(each, []),
        }
        for row, each in enumerate(ids)
    ]


def _edges(values: Mapping[str, Any]) -> list[Document]:
    """Return the edges, the strongest first, of equal ones in the order that they have."""
    if "edge_weight" not in values:
        return []
    weight = torch.as_tensor(values["edge_weight"])
    order = weight.abs().nan_to_num(-1.0).argsort(descending=True, stable=True)
    names = ("cause", "effect", "weight")
    columns = [_plain(torch.as_tensor(values[f"edge_{name}"])[order], name) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _sources(layer: WeightedLayer, structure: Structure) -> dict[int, list[list[Any]]]:
    """Return, by neuron, the channels that it stands for."""
    found: dict[int, list[list[Any]]] = {}
    names = [each.name for each in structure.layers]
    rows = (part.tolist() for part in (layer.sources.neuron, layer.sources.layer))
    for neuron, of_layer, channel in zip(*rows, layer.sources.channel.tolist(), strict=True):
        found.setdefault(neuron, []).append([names[of_layer], channel])
    return found


def _plain(value: Any, name: str) -> Any:
    """Return a value as JSON has it: finite, of Python's own types."""
    if isinstance(value, torch.Tensor):
        value = _list(value.detach().cpu(), name)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each, name) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | str):
        return value
    return bool(value) if name in _FLAGS else int(value) if name in _WHOLE else value


def _list(value: Tensor, name: str) -> Any:
    found: Any = (value.bool() if name == "is_borderline" else value).tolist()
    return found
