"""Lists of each class: raw scores while a class has few samples, lists when it has more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.concepts.scores import FIELDS
from explainers.maximization import ranking, tables
from explainers.maximization.ranking import Rows
from explainers.maximization.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    lists: Table
    """Their lists; without those of a class that has no finite score."""

    @classmethod
    def of(cls, rows: Rows, entries: Table, k: int) -> ClassLists:
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
        is_many, listed = _many(rows, rows.group[:0], k)
        found = _few(rows, is_many)
        if not bool(is_many.all()):
            entries = _taken(entries, is_many)
        return cls(found, listed, tables.best(entries, k))

    @classmethod
    def merged(cls, parts: Sequence[ClassLists], k: int) -> ClassLists:
        """Return what is kept of the samples of all parts."""
        rows = ranking.joined([part.rows for part in parts])
        is_many, listed = _many(rows, torch.cat([part.listed for part in parts]), k)
        lists = [part.lists for part in parts]
        entries = [rows.of(is_many.nonzero()[:, 0]).entries()] if bool(is_many.any()) else []
        return cls(_few(rows, is_many), listed, tables.best(tables.joined([*entries, *lists]), k))

    def all_lists(self, k: int) -> Table:
        """Return the lists of all classes."""
        return tables.best(tables.joined([self.rows.entries(), self.lists]), k)

    def stored(self, name: str) -> State:
        """Return this as entries of a state, ``name`` in front."""
        rows = zip(_FIELDS, self.rows, strict=True)
        return {
            **{f"{name}/scores/{field}": part for field, part in rows},
            f"{name}/listed/class": self.listed,
            f"{name}/lists/class": self.lists.group,
            **tables.stored(name, self.lists),
        }

    @classmethod
    def restored(cls, name: str, state: State) -> ClassLists:
        """Return what was stored with this name in front."""
        rows = Rows(*(state[f"{name}/scores/{field}"] for field in _FIELDS))
        lists = tables.restored(name, state, state[f"{name}/lists/class"])
        return cls(rows, state[f"{name}/listed/class"], lists)


_FIELDS = (*FIELDS, "sample", "class")


def _many(rows: Rows, listed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return which rows are of classes that have lists, and these classes.

    They are the ones of more than k rows, and those that had lists before.
    """
    classes, place, counts = torch.unique(rows.group, return_inverse=True, return_counts=True)
    is_many = ((counts > k) | torch.isin(classes, listed)) & (classes >= 0)
    return is_many[place], torch.unique(torch.cat([listed, classes[is_many]]))


def _few(rows: Rows, is_many: Tensor) -> Rows:
    """Return the other rows of known class, in order."""
    return rows.of((~is_many & (rows.group >= 0)).nonzero()[:, 0]).in_order()


def _taken(table: Table, is_taken: Tensor) -> Table:
    rows = is_taken.nonzero()[:, 0]
    return Table(*(part[rows] for part in table))
