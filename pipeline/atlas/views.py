"""What scans of maximization found, a layer at a time: one view per scan and target."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from explainers import operators
from pipeline.report.naming import target_in_words
from pipeline.sinks.result_writer import CHUNK_BYTES
from pipeline.sinks.stored_result import StoredResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.store import Run

SCORES = ("sum_normed", "sum", "max_normed", "max")
"""Lists of a layer, the one shown by default first."""
TITLES = {"activation_maximization": "ActMax", "relevance_maximization": "RelMax"}
"""What the literature calls the scans' lists."""
BESIDE = " · "
"""Between a layer and the kind of its concepts, where they are not its channels: scans that take a
layer apart in different ways have no concept in common, and each kind has a page."""
CHANNELS = "channels"
"""What concepts are where a scan does not say."""
MISSING = -1
"""Sample of a place in a list that nothing fills."""


@dataclass(frozen=True)
class View:
    """Lists of one scan, for one of its targets: a column of the pages."""

    title: str
    """What it is called on the pages."""
    method: str
    """The registered scan."""
    score: str
    """Whose lists are shown."""
    layers: Mapping[str, Any]
    """Page (layer, and kind of its concepts) to its lists, read when they are asked for."""

    @property
    def is_relevance(self) -> bool:
        """Whether samples were ranked by relevance."""
        return self.method == "relevance_maximization"

    def has_references(self, layer: str) -> bool:
        """Whether there are heat maps of a layer's reference samples."""
        return layer in self.layers and "references" in self.layers[layer]


@dataclass(frozen=True)
class Lists:
    """Best samples of every concept of a layer, best first."""

    sample: NDArray[np.int64]
    """``(rank, channel)``; -1 where there are fewer."""
    value: NDArray[np.float32]
    """``(rank, channel)``."""

    @property
    def is_found(self) -> NDArray[np.bool_]:
        """Which places of the lists are filled."""
        return np.asarray((self.sample != MISSING) & np.isfinite(self.value))

    @property
    def is_silent(self) -> NDArray[np.bool_]:
        """Which concepts no sample shows, ``(channel,)``: nothing found, or zeros alone."""
        return np.asarray(~(self.is_found & (self.value != 0)).any(axis=0))


@dataclass(frozen=True)
class References:
    """Heat maps of the best samples of some concepts."""

    heatmap: NDArray[np.float16]
    """``(rank, channel, height, width)`` in [-1, 1]."""
    crop: NDArray[np.int64]
    """``(rank, channel, 4)``: top, left, bottom, right, the last two exclusive."""


def views_of(run: Run, kinds: Mapping[str, str] | None = None) -> list[View]:
    """Return the views of a run, activations before relevances.

    Parameters
    ----------
    run
        With results of scans.
    kinds
        Operators of layers, as far as they are known.
    """
    found = []
    called: dict[str, str] = {}
    for scan, result in run.scans.items():
        parameters = _parameters(run, scan)
        method = str(parameters.get("method", scan))
        concepts = parameters.get("concepts") or {}
        for target, held in _by_target(result):
            layers = {
                _page(layer, _spec(concepts, layer, kinds or {}), called): value
                for layer, value in held.items()
            }
            title = TITLES.get(method, scan)
            if target is not None:
                title = f"{title} of {target_in_words(target)}"
            score = str(parameters.get("reference_score", SCORES[0]))
            found.append((scan, View(title, method, score, layers)))
    return sorted(_told_apart(found), key=_by_kind)


def pages_of(views: Sequence[View], layers: Iterable[str] = ()) -> list[str]:
    """Return all pages of the views, in the order of the network.

    Parameters
    ----------
    views
        In any order: results are stored by name.
    layers
        Of the network in order; where some are not known, names decide, numbers in them as numbers.
    """
    pages = dict.fromkeys(page for view in views for page in view.layers)
    place = {layer: index for index, layer in enumerate(layers)}
    found = sorted(pages, key=lambda page: (_by_number(layer_of(page)), BESIDE in page))
    if place.keys() >= set(map(layer_of, pages)):
        found.sort(key=lambda page: place[layer_of(page)])
    return found


def _by_number(layer: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", layer)]


def layer_of(page: str) -> str:
    """Return the layer that a page is about."""
    return page.partition(BESIDE)[0]


def lists(view: View, layer: str) -> Lists:
    """Return the lists of a layer that a view shows."""
    held = view.layers[layer]
    score = view.score if view.score in held else next(name for name in SCORES if name in held)
    return Lists(
        np.asarray(held[score]["sample"], np.int64), np.asarray(held[score]["value"], np.float32)
    )


def references(view: View, layer: str, n: int, channels: slice) -> References | None:
    """Return the first heat maps of some concepts of a layer; None if there are none."""
    if not view.has_references(layer):
        return None
    held = view.layers[layer]["references"]
    index = (slice(n), channels)
    return References(
        np.asarray(part(held, "heatmap", index), np.float16),
        np.asarray(part(held, "crop", index), np.int64),
    )


def blocks(view: View, layer: str, n_concepts: int) -> list[slice]:
    """Return concepts in parts whose heat maps of one rank are as large as what is read at once."""
    if not view.has_references(layer):
        return [slice(n_concepts)]
    shape = _shape(view.layers[layer]["references"], "heatmap")
    rows = max(1, CHUNK_BYTES // max(1, 2 * math.prod(shape[2:])))
    return [slice(start, start + rows) for start in range(0, n_concepts, rows)]


def part(held: Mapping[str, Any], name: str, index: Any) -> NDArray[Any]:
    """Return a part of an array; no more of it is read where the mapping is a stored one."""
    if isinstance(held, StoredResult):
        return held.part(name, index)
    return np.asarray(np.asarray(held[name])[index])


def quality(view: View, layer: str) -> dict[str, NDArray[Any]]:
    """Return what was found about the concepts of a layer, by name; empty if nothing was."""
    return {
        name: np.asarray(value) for name, value in view.layers[layer].get("quality", {}).items()
    }


def shown_samples(view: View, layer: str, n: int) -> NDArray[np.int64]:
    """Return the samples of which a layer's page shows pictures, ``(rank, channel)``."""
    if view.has_references(layer):
        held = view.layers[layer]["references"]
        return np.asarray(part(held, "sample", slice(n)), np.int64)
    return lists(view, layer).sample[:n]


def _shape(held: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return held.shape(name) if isinstance(held, StoredResult) else tuple(held[name].shape)


def _parameters(run: Run, scan: str) -> Mapping[str, Any]:
    asked = run.config.explainers.get(scan, {})
    return asked if isinstance(asked, Mapping) else {}


def _spec(concepts: Mapping[str, Any], layer: str, kinds: Mapping[str, str]) -> Any:
    """Return what a scan's concepts are in a layer: those of the first pattern that names it."""
    named = (spec for pattern, spec in concepts.items() if _is_named(pattern, layer, kinds))
    return next(named, CHANNELS)


def _is_named(pattern: str, layer: str, kinds: Mapping[str, str]) -> bool:
    _, is_type, wanted = pattern.partition("type:")
    if not is_type:
        return layer == pattern or fnmatchcase(layer, pattern)
    # without the network: rather a page of its own than one with concepts of something else
    if layer not in kinds:
        return True
    kind, asked = (getattr(operators, name, None) for name in (kinds[layer], wanted))
    return kind is not None and asked is not None and issubclass(kind, asked)


def _page(layer: str, spec: Any, called: dict[str, str]) -> str:
    """Return the name of a page; `called` has what the kinds before were called."""
    if spec == CHANNELS:
        return layer
    key = json.dumps(spec, sort_keys=True, default=str)
    if key not in called:
        words = (spec,) if isinstance(spec, str) else next(iter(spec.items()))
        name = " ".join(PurePosixPath(word).stem for word in words if isinstance(word, str))
        n_alike = sum(other.split(" (")[0] == name for other in called.values())
        called[key] = f"{name} ({n_alike + 1})" if n_alike else name
    return f"{layer}{BESIDE}{called[key]}"


def _by_target(result: Mapping[Any, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield targets (None for the only one) and the lists of their layers."""
    if layers := _layers(result):
        yield None, layers
        return
    for target, inner in result.items():
        if isinstance(inner, Mapping) and (layers := _layers(inner)):
            yield target, layers


def _layers(result: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in result.items() if _has_lists(value)}


def _has_lists(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        score in value and isinstance(value[score], Mapping) and "sample" in value[score]
        for score in SCORES
    )


def _told_apart(found: Sequence[tuple[str, View]]) -> list[View]:
    """Return the views; of those that would be called alike each is called by its scan."""
    titles = [view.title for _, view in found]
    return [
        view
        if titles.count(view.title) == 1
        else View(f"{view.title} ({scan})", view.method, view.score, view.layers)
        for scan, view in found
    ]


def _by_kind(view: View) -> int:
    return list(TITLES).index(view.method) if view.method in TITLES else len(TITLES)
