"""What a layer's page says about each concept beside its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.atlas import classes, strips, views

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.atlas.classes import ByClass
    from pipeline.atlas.views import Lists, View

UNKNOWN = -1
"""Class of a sample of which it is not known."""
QUALITIES = ("clarity", "polysemanticity")
"""Scores of a concept that cards show, and that they can be sorted by."""


@dataclass(frozen=True)
class Names:
    """What samples and classes are called."""

    sample_ids: Sequence[str]
    labels: NDArray[np.int64]
    """Class of each sample; -1 where it is not known."""
    predictions: NDArray[np.int64]
    """What the network took each sample for; -1 where it is not known."""
    label: Callable[[int], str]
    """Class to its name."""


@dataclass(frozen=True)
class Tile:
    """One sample of a strip."""

    name: str
    """Its class, or its id where that is not known."""
    said: str
    """What the network took it for, if that is something else."""
    sample_id: str
    value: float
    is_shared: bool
    """Whether another view lists it, too."""


@dataclass(frozen=True)
class Column:
    """What one view shows of a concept."""

    title: str
    row: int
    """Where its strip begins in the concept's picture, in tiles."""
    is_heated: bool
    tiles: list[Tile]
    classes: list[tuple[str, float | str]]
    """Names of the classes that show it most, and their mean scores or counts."""
    qualities: list[tuple[str, float]]
    nearest: int | None
    """The concept most like it."""
    is_silent: bool


@dataclass(frozen=True)
class Card:
    """A concept."""

    channel: int
    columns: list[Column]
    overlap: tuple[int, int] | None
    """Samples that both lists hold, and how many could be."""
    keys: dict[str, float]
    """What cards can be sorted by."""

    @property
    def is_silent(self) -> bool:
        """Whether no sample shows the concept."""
        return all(column.is_silent for column in self.columns)


@dataclass(frozen=True)
class Shown:
    """One view of a layer, in memory."""

    view: View
    lists: Lists
    samples: NDArray[np.int64]
    """Samples of the strips, ``(rank, channel)``."""
    is_heated: bool
    """Whether the strips have heat maps."""
    quality: dict[str, NDArray[Any]]
    by_class: ByClass | None

    @classmethod
    def of(cls, view: View, layer: str, n: int) -> Shown:
        """Return what a view shows of a layer."""
        return cls(
            view,
            views.lists(view, layer),
            views.shown_samples(view, layer, n),
            view.has_references(layer),
            views.quality(view, layer),
            classes.by_class(view, layer),
        )

    @property
    def n_rows(self) -> int:
        """Tiles of its strip from top to bottom."""
        return strips.HEATED if self.is_heated else 1

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """Scores of the strips' samples; NaN where the lists do not say."""
        n = len(self.samples)
        found = self.lists.value[:n]
        return np.where(self.lists.sample[:n] == self.samples, found, np.float32(np.nan))


class Cards:
    """The cards of a layer.

    Parameters
    ----------
    shown
        Its views.
    names
        Of samples and classes.
    """

    def __init__(self, shown: Sequence[Shown], names: Names) -> None:
        self.shown = shown
        self.names = names
        self.n_concepts = max(each.lists.sample.shape[1] for each in shown)
        self._shared = [_shared(each, shown) for each in shown]
        self._overlap = _overlap(shown)
        self._silent = [each.lists.is_silent for each in shown]
        starts = np.cumsum([0, *(each.n_rows for each in shown)])
        self._rows = [int(start) for start, _ in pairwise(starts)]
        self.n_rows = int(starts[-1])

    @cached_property
    def is_silent(self) -> NDArray[np.bool_]:
        """Which concepts no sample shows."""
        return np.asarray(np.logical_and.reduce(self._silent))

    def card(self, channel: int) -> Card:
        """Return the card of a concept."""
        overlap = None
        if self._overlap is not None:
            overlap = int(self._overlap[0][channel]), int(self._overlap[1][channel])
        return Card(
            channel,
            [self._column(place, channel) for place in range(len(self.shown))],
            overlap,
            self._keys(channel, overlap),
        )

    def _column(self, place: int, channel: int) -> Column:
        each = self.shown[place]
        nearest = each.quality.get("nearest")
        return Column(
            title=each.view.title,
            row=self._rows[place],
            is_heated=each.is_heated,
            tiles=self._tiles(place, channel),
            classes=self._classes(each, channel),
            qualities=[
                (name, float(each.quality[name][channel]))
                for name in QUALITIES
                if name in each.quality
            ],
            nearest=None if nearest is None or nearest[channel] < 0 else int(nearest[channel]),
            is_silent=bool(self._silent[place][channel]),
        )

    def _tiles(self, place: int, channel: int) -> list[Tile]:
        each, names = self.shown[place], self.names
        return [
            Tile(
                name=names.label(int(label)) if label >= 0 else names.sample_ids[sample],
                said=names.label(int(said)) if said not in (label, UNKNOWN) else "",
                sample_id=names.sample_ids[sample],
                value=float(value),
                is_shared=bool(is_shared),
            )
            for sample, label, said, value, is_shared in zip(
                each.samples[:, channel],
                names.labels[each.samples[:, channel]],
                names.predictions[each.samples[:, channel]],
                each.values[:, channel],
                self._shared[place][:, channel],
                strict=True,
            )
            if sample != views.MISSING
        ]

    def _classes(self, each: Shown, channel: int) -> list[tuple[str, float | str]]:
        names = self.names
        if each.by_class is not None:
            best = each.by_class.best_classes(channel)
            return [(names.label(index), mean) for index, mean in best]
        samples = each.lists.sample[:, channel]
        found = classes.among_best(names.labels, samples)
        n_listed = int((samples != views.MISSING).sum())
        return [(names.label(index), f"{count} of {n_listed}") for index, count in found]

    def _keys(self, channel: int, overlap: tuple[int, int] | None) -> dict[str, float]:
        keys = {
            name: float(each.quality[name][channel])
            for each in self.shown
            for name in QUALITIES
            if name in each.quality
        }
        if overlap is not None:
            keys["overlap"] = overlap[0] / max(1, overlap[1])
        keys["value"] = float(self.shown[-1].lists.value[:1, channel].max(initial=-np.inf))
        return {name: value for name, value in keys.items() if np.isfinite(value)}


def _shared(each: Shown, shown: Sequence[Shown]) -> NDArray[np.bool_]:
    """Return which samples of a view's strips other views list, too."""
    found = np.zeros(each.samples.shape, bool)
    for other in shown:
        if other is not each and other.lists.sample.shape[1] == each.samples.shape[1]:
            found |= (each.samples[:, None] == other.lists.sample[None]).any(axis=1)
    return np.asarray(found & (each.samples != views.MISSING))


def _overlap(shown: Sequence[Shown]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return how many samples the first two lists share, per concept, and how many they could."""
    if len(shown) < 2:
        return None
    left, right = shown[0].lists, shown[1].lists
    if left.sample.shape[1] != right.sample.shape[1]:
        return None
    is_same = left.sample[:, None] == right.sample[None]
    is_same &= left.is_found[:, None] & right.is_found[None]
    could = np.minimum(left.is_found.sum(axis=0), right.is_found.sum(axis=0))
    return is_same.any(axis=1).sum(axis=0), could
