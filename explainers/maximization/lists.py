"""Lists of the samples in which each channel scores most: a monoid that merges exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.maximization import order, results, tables
from explainers.maximization.classes import ClassLists
from explainers.maximization.ranking import Rows
from explainers.maximization.tables import PER_CLASS, SCORES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from torch import Tensor

    from explainers.base import Result, State
    from explainers.maximization.scored import Scored


@dataclass(frozen=True)
class Lists:
    """The best samples of every channel by four scores, among all and within each class.

    With s a channel's sum over its positions or its greatest value, both with their sign, the
    scores are s and, normed, ``s[b, c] / (sum_c' |s[b, c']| + 1e-10)`` (Achtibat et al. 2023,
    doi:10.1038/s42256-023-00711-8). Values are float32, of networks in float64 too: they are
    rounded before they are normed. Best is the greatest value, and of equal ones the smallest
    sample index. NaN and infinite values are in no list; a sample with such a value in any channel,
    or with a sum of them that is beyond float32, is in none of the layer's normed lists.

    A state has, by layer and score, ``<layer>/<score>/value`` (float32), ``/sample`` and
    ``/position`` (int32), ``(rank, channel)`` each and best first; short lists end in NaN, -1 and
    -1. Under ``<layer>/per_class/`` it has what `ClassLists` keeps. What is kept does not depend on
    the order in which samples come, so merging is associative and commutative to the bit.
    """

    k: int = 40
    """Length of the lists."""
    per_class: int = 40
    """Length of the lists of each class; 0 for none."""

    def __post_init__(self) -> None:
        numeric.check_whole("k", self.k)
        numeric.check_whole("per_class", self.per_class, 0)

    def init(self) -> State:
        """Return the neutral element: no layer."""
        return {}

    def of(self, scored: Scored, prefix: str = "") -> State:
        """Return the lists of some samples.

        Parameters
        ----------
        scored
            Their scores.
        prefix
            Goes in front of the layers' names, with a slash, where there are several targets.
        """
        _check(scored.sample)
        state: State = {}
        for layer, scores in scored.layers.items():
            head = f"{prefix}/{layer}" if prefix else layer
            device = scores.total.device
            rows = Rows(
                scores.total.float(),
                scores.peak.float(),
                scores.position.int(),
                scored.sample.to(device),
                scored.group.to(device),
            )
            entries = rows.entries()
            overall = entries._replace(group=torch.zeros_like(rows.group))
            state |= tables.stored(head, tables.best(overall, self.k))
            if self.per_class:
                classes = ClassLists.of(rows, entries, self.per_class)
                state |= classes.stored(f"{head}/{PER_CLASS}")
        return state

    def merge(self, left: State, right: State) -> State:
        """Return the lists of both parts, which may have different layers."""
        found = [_by_layer(part) for part in (left, right)]
        state: State = {}
        for layer in sorted({*found[0], *found[1]}):
            parts = [part[layer] for part in found if layer in part]
            state |= parts[0] if len(parts) == 1 else self._merged(layer, parts)
        return state

    def merged(self, states: Iterable[State]) -> State:
        """Return the lists of all parts, which are merged in pairs of about equal size.

        Otherwise each would be compared with the lists of all that came before. Of n states no more
        than log2 n are in memory.
        """
        waiting: list[tuple[int, State]] = []
        for state in states:
            size = 1
            while waiting and waiting[-1][0] == size:
                state, size = self.merge(waiting.pop()[1], state), 2 * size
            waiting.append((size, state))
        found = self.init()
        while waiting:
            found = self.merge(waiting.pop()[1], found)
        return found

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        """Return the names of each layer's entries, for `Scan.groups`."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(_layer(name), []).append(name)
        return list(found.values())

    def finalise(self, state: State, prefix: str = "") -> Result:
        """Return the lists by layer and score, those of classes under ``per_class`` by class.

        Parameters
        ----------
        state
            A state, or the entries that it has for some layers.
        prefix
            That of the layers; those with another are left out.
        """
        start = f"{prefix}/" if prefix else ""
        result: Result = {}
        for layer, entries in _by_layer(state).items():
            if not layer.startswith(start):
                continue
            lists = results.by_score(tables.restored(layer, entries))
            if self.per_class:
                classes = ClassLists.restored(f"{layer}/{PER_CLASS}", entries)
                lists[PER_CLASS] = results.by_class(classes.all_lists(self.per_class))
            result[layer.removeprefix(start)] = lists
        return result

    def _merged(self, layer: str, parts: Sequence[State]) -> State:
        """Return the lists of one layer from several states."""
        _check_channels(layer, parts)
        entries = tables.joined([tables.restored(layer, part) for part in parts])
        state = tables.stored(layer, tables.best(entries, self.k))
        if self.per_class:
            name = f"{layer}/{PER_CLASS}"
            found = [ClassLists.restored(name, part) for part in parts]
            state |= ClassLists.merged(found, self.per_class).stored(name)
        return state


def length_of_classes(per_class: bool | int, k: int) -> int:
    """Return how long lists of classes are: as long as those of all for true, none for false.

    Raises
    ------
    TypeError, ValueError
        If it is neither of these nor a whole number.
    """
    if isinstance(per_class, bool):
        return k if per_class else 0
    numeric.check_whole("per_class", per_class, 0)
    return int(per_class)


def _by_layer(state: State) -> dict[str, State]:
    found: dict[str, State] = {}
    for name, entry in state.items():
        found.setdefault(_layer(name), {})[name] = entry
    return found


def _layer(name: str) -> str:
    return name.rsplit("/", 2)[0].removesuffix(f"/{PER_CLASS}")


def _check(sample: Tensor) -> None:
    if len(sample) and not 0 <= int(sample.min()) <= int(sample.max()) <= order.LAST_SAMPLE:
        raise ValueError(
            f"got sample indices from {int(sample.min())} to {int(sample.max())}, expected 0 to "
            f"{order.LAST_SAMPLE}; number the samples from 0"
        )


def _check_channels(layer: str, parts: Sequence[State]) -> None:
    widths = sorted({part[f"{layer}/{SCORES[0]}/value"].shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(
            f"states have {widths[0]} and {widths[1]} channels of {layer!r}, expected as many; "
            "merge states of one network and one choice of concepts only"
        )
