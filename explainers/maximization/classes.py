"""Lists of each class: raw scores while a class has few samples, lists when it has more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.maximization import ranking, tables
from explainers.maximization.ranking import SCORES, Rows
from explainers.maximization.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.base import State


@dataclass(frozen=True)
class ClassLists:
    """What is kept of each class in one layer.

    A class of no more samples than a list is long has raw scores of all: these are a quarter of
    four lists, and merging them is joining them. Which it has depends on how many samples it has
    alone, so that parts that are merged give what the whole gives.
    """

    rows: Rows
    """Raw scores of classes of few samples, by class and sample."""
    listed: Tensor
    """Classes of more samples, ascending, int64, ``(classes,)``."""
    lists: Mapping[str, Table]
    """Their lists by score; without those of a class that has no finite score."""

    @classmethod
    def of(cls, rows: Rows, entries: Mapping[str, Table], k: int) -> ClassLists:
        """Return what is kept of some samples, those of unknown class left out.

        Parameters
        ----------
        rows
            Their raw scores.
        entries
            What `Rows.entries` finds in these.
        k
            Length of the lists.
        """
        return _settled(rows, rows.group[:0], entries, [], k)

    @classmethod
    def merged(cls, parts: Sequence[ClassLists], k: int) -> ClassLists:
        """Return what is kept of the samples of all parts."""
        rows = ranking.joined([part.rows for part in parts])
        listed = torch.cat([part.listed for part in parts])
        return _settled(rows, listed, None, [part.lists for part in parts], k)

    def all_lists(self, k: int) -> dict[str, Table]:
        """Return the lists of all classes by score."""
        return _listed(dict(self.rows.entries()), [self.lists], k)

    def stored(self, name: str) -> State:
        """Return this as entries of a state, ``name`` in front."""
        state = {
            f"{name}/scores/{field}": part for field, part in zip(_FIELDS, self.rows, strict=True)
        }
        state[f"{name}/listed/class"] = self.listed
        for score, table in self.lists.items():
            state |= tables.stored(f"{name}/{score}", table, has_groups=True)
        return state

    @classmethod
    def restored(cls, name: str, state: State) -> ClassLists:
        """Return what was stored with this name in front."""
        rows = Rows(*(state[f"{name}/scores/{field}"] for field in _FIELDS))
        lists = {
            score: tables.restored(f"{name}/{score}", state)
            for score in SCORES
            if f"{name}/{score}/value" in state
        }
        return cls(rows, state[f"{name}/listed/class"], lists)


_FIELDS = ("total", "peak", "position", "sample", "class")


def _settled(
    rows: Rows,
    listed: Tensor,
    entries: Mapping[str, Table] | None,
    lists: Sequence[Mapping[str, Table]],
    k: int,
) -> ClassLists:
    """Return what is kept of rows, whose entries may be known, and of lists of some classes."""
    classes, place, counts = torch.unique(rows.group, return_inverse=True, return_counts=True)
    is_many = ((counts > k) | torch.isin(classes, listed)) & (classes >= 0)
    is_few = ~is_many & (classes >= 0)
    few = rows.of(is_few[place].nonzero()[:, 0]).in_order()
    listed = torch.unique(torch.cat([listed, classes[is_many]]))
    if not len(listed):
        return ClassLists(few, listed, {})
    many = is_many[place].nonzero()[:, 0]
    if entries is None:
        found = dict(rows.of(many).entries())
    else:
        found = {score: Table(*(part[many] for part in table)) for score, table in entries.items()}
    return ClassLists(few, listed, _listed(found, lists, k))


def _listed(
    entries: Mapping[str, Table], lists: Sequence[Mapping[str, Table]], k: int
) -> dict[str, Table]:
    """Return the lists of the classes of entries and lists, by score."""
    return {
        score: tables.best(tables.joined([found, *(each[score] for each in lists if each)]), k)
        for score, found in entries.items()
    }
