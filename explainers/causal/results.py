"""The form of a causal graph's result: of each class the layers, and beside them the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers.causal import decision
from explainers.causal.graphs import CLASSES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from explainers.base import Result
    from explainers.causal.choosing import Chosen
    from explainers.causal.outline import Outline

SAMPLES = "samples"
"""Key of the samples, beside the classes."""
HOW = (*decision.HOW, "not reached")
"""How causes were selected, or why none were; stored by its position here."""
NOT_REACHED = HOW.index("not reached")
UNTESTED = (decision.TOO_FEW, NOT_REACHED)
"""Of `HOW`, where no neuron was tested."""
_SIGNS = {-1: "negative cause", 0: "none", 1: "positive cause"}
EDGES = ("cause", "effect", "weight")
"""What each edge has, as ``edge_<name>``."""
_LINKS = ("causes", "negative_causes", "effects")
_DIMENSIONS = {"causes": "cause", "negative_causes": "negative_cause", "effects": "effect"}

Facts = dict[str, Any]
"""What is known of a layer: names to tensors ``(classes, ...)``; ``sweep`` to such a mapping; and
``edges`` to a mapping of ``member`` (position of the class) and what `EDGES` says, ``(edges,)``."""


def result_of(
    chosen: Chosen, outline: Outline, effects: Mapping[str, Tensor], facts: Mapping[str, Facts]
) -> Result:
    """Return the result of a scan.

    Parameters
    ----------
    chosen
        The samples.
    outline
        The network's layers.
    effects
        Layer to the channels that each class's graph is made of, bool ``(classes, channels)``.
    facts
        Of the layers that are tested.
    """
    tables = {name: _by_class(each, len(chosen.classes)) for name, each in facts.items()}
    result: dict[Any, Any] = {}
    for position, label in enumerate(chosen.classes):
        result[label] = {
            layer.name: _layer(effects[layer.name][position], tables, layer.name, position)
            for layer in outline.layers
        }
    return {**result, SAMPLES: _samples(chosen)}


def stored(result: Result) -> Result:
    """Return a result, or a part of one, as it is stored: all classes alike below ``classes``.

    Arrays of a layer that differ in length among classes are padded to the longest, whole numbers
    with -1 and others with NaN; `HOW` is stored as a number.
    """
    found: Result = {key: value for key, value in result.items() if isinstance(key, str)}
    classes = {key: value for key, value in result.items() if not isinstance(key, str)}
    if classes:
        padded = _padded(list(classes.values()))
        found[CLASSES] = dict(zip(classes, padded, strict=True))
    return found


def axes(path: Sequence[Any], n_axes: int, beside: Collection[Any]) -> tuple[str, ...]:
    """Return what the axes of a stored array are called, see `explainers.base.Scan.axes`."""
    name = str(path[-1])
    if name == CLASSES:
        return ("class",)
    if path[0] == SAMPLES:
        return ("class",) if name in ("seen", "correct") else ("sample",)
    if n_axes == 0:
        return ()
    if name in _DIMENSIONS:
        return (_DIMENSIONS[name],)
    if name.startswith("edge_"):
        return ("edge",)
    return ("setting",) if "sweep" in path and name != "frequency" else ("neuron",)


def attributes(path: Sequence[Any]) -> dict[str, Any]:
    """Return what the numbers of a stored array mean, see `explainers.base.Scan.attributes`."""
    meanings = {"how": dict(enumerate(HOW)), "sign": _SIGNS}.get(str(path[-1]))
    if meanings is None:
        return {}
    words = " ".join(word.replace(" ", "_") for word in meanings.values())
    return {"flag_values": [*meanings], "flag_meanings": words}


def _layer(effects: Tensor, tables: Mapping[str, list[Result]], name: str, position: int) -> Result:
    """Return one layer of one class."""
    linked = effects.nonzero()[:, 0]
    if name not in tables:
        none = linked.new_zeros(0)
        return {"causes": none, "negative_causes": none, "effects": linked}
    values = tables[name][position]
    signs = values["sign"]
    causes = {"causes": (signs > 0).nonzero()[:, 0], "negative_causes": (signs < 0).nonzero()[:, 0]}
    return {**causes, "effects": linked, **values}


def _by_class(facts: Facts, n_classes: int) -> list[Result]:
    """Return what is known of a layer for each class."""
    found: list[Result] = [{} for _ in range(n_classes)]
    for name, value in facts.items():
        if name == "edges":
            for each, edges in zip(found, _edges(value, n_classes), strict=True):
                each |= edges
        elif isinstance(value, Tensor):
            rows = value.tolist() if value.ndim == 1 else value
            for each, row in zip(found, rows, strict=True):
                each[name] = _words(row) if name == "how" else row
        else:
            for each, below in zip(found, _by_class(value, n_classes), strict=True):
                each[name] = below
    return found


def _words(how: Any) -> str | tuple[str, ...]:
    """Return how causes were selected, in words; of each value of a sweep."""
    return HOW[how] if isinstance(how, int) else tuple(HOW[each] for each in how.tolist())


def _edges(edges: Mapping[str, Tensor], n_classes: int) -> list[dict[str, Tensor]]:
    # edges are in the order of classes
    counts: list[int] = torch.bincount(edges["member"], minlength=n_classes).tolist()
    parts = {f"edge_{name}": torch.split(edges[name], counts) for name in EDGES}
    return [{name: part[position] for name, part in parts.items()} for position in range(n_classes)]


def _samples(chosen: Chosen) -> dict[str, Tensor]:
    kept = chosen.for_selection | chosen.is_held_out
    labels = torch.tensor(chosen.classes, dtype=torch.int64)
    return {
        "sample": chosen.sample[kept],
        "label": labels[chosen.member[kept]],
        "is_held_out": chosen.is_held_out[kept],
        "seen": chosen.seen,
        "correct": chosen.correct,
    }


def _padded(parts: Sequence[Mapping[Any, Any]]) -> list[Result]:
    """Return mappings with the same keys, tensors of one key in one shape."""
    found: list[Result] = [{} for _ in parts]
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, dict):
            alike: list[Any] = _padded(values)
        else:
            alike = _in_one_shape([_tensor(value) for value in values])
        for each, value in zip(found, alike, strict=True):
            each[name] = value
    return found


def _in_one_shape(values: list[Tensor]) -> list[Tensor]:
    if values[0].ndim != 1 or len({len(value) for value in values}) == 1:
        return values
    longest = max(len(value) for value in values)
    fill = torch.nan if values[0].is_floating_point() else -1
    alike = values[0].new_full((len(values), longest), fill)
    for row, value in zip(alike, values, strict=True):
        row[: len(value)] = value
    return list(alike)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, str):
        return torch.tensor(HOW.index(value))
    if isinstance(value, tuple):
        return torch.tensor([HOW.index(each) for each in value])
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    return value if isinstance(value, Tensor) else torch.tensor(value)
