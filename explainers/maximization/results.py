"""What lists finalise to: arrays by layer, score and class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from explainers.maximization import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result
    from explainers.maximization.tables import Table


class ByClass(dict[int, dict[str, Any]]):
    """Lists by class and score, each a slice of arrays that hold all classes.

    Storing the arrays rather than the slices keeps the number of arrays from growing with that of
    classes.
    """

    def __init__(self, classes: Tensor, stacked: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(
            (
                each,
                {
                    score: {name: part[place] for name, part in lists.items()}
                    for score, lists in stacked.items()
                },
            )
            for place, each in enumerate(classes.tolist())
        )
        self.classes = classes
        """Classes, ascending, int64, ``(classes,)``."""
        self.stacked = stacked
        """By score ``sample``, ``value`` and ``position``, ``(classes, rank, channel)`` each."""


def by_score(table: Table) -> Result:
    """Return the lists of a table of one group."""
    return {
        score: {name: _plain(array) for name, array in arrays.items()}
        for score, arrays in tables.arrays(table).items()
    }


def by_class(table: Table) -> ByClass:
    """Return the lists of a table by class, all as long as the longest."""
    classes, place, counts = torch.unique(table.group, return_inverse=True, return_counts=True)
    rank = torch.arange(len(place), device=place.device) - (counts.cumsum(0) - counts)[place]
    longest = int(counts.max()) if len(classes) else 0
    stacked: Result = {}
    for score, arrays in tables.arrays(table).items():
        stacked[score] = {}
        for name, array in arrays.items():
            rows = _plain(array)
            fill = torch.nan if rows.is_floating_point() else -1
            filled = rows.new_full((len(classes), longest, rows.shape[1]), fill)
            filled[place, rank] = rows
            stacked[score][name] = filled
    return ByClass(classes, stacked)


def _plain(array: Tensor) -> Tensor:
    """Return values as they are and whole numbers as int64."""
    return array if array.is_floating_point() else array.long()
