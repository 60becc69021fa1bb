"""What lists finalise to: arrays by layer, score and class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from explainers.maximization import order

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


def form(table: Table) -> Result:
    """Return the lists of a table of one group."""
    return {
        "sample": order.samples(table.keys).long(),
        "value": order.values(table.keys),
        "position": table.position.long(),
    }


def by_class(found: Mapping[str, Table]) -> ByClass:
    """Return the lists of tables by score, as long as the longest of any class."""
    classes = torch.unique(torch.cat([table.group for table in found.values()]))
    return ByClass(classes, {score: _stacked(table, classes) for score, table in found.items()})


def _stacked(table: Table, classes: Tensor) -> Result:
    """Return the lists of a table, ``(classes, rank, channel)`` each, ends filled."""
    place = torch.searchsorted(classes, table.group)
    counts = torch.bincount(place, minlength=len(classes))
    rank = torch.arange(len(place), device=place.device) - (counts.cumsum(0) - counts)[place]
    longest = int(counts.max()) if len(classes) else 0
    shape = (len(classes), longest, table.keys.shape[1])
    stacked = {}
    for name, part in form(table).items():
        stacked[name] = part.new_full(shape, torch.nan if part.is_floating_point() else -1)
        stacked[name][place, rank] = part
    return stacked
