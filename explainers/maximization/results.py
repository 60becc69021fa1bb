"""What lists finalise to: arrays by layer, score and class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from explainers.maximization import tables
from explainers.maximization.tables import PER_CLASS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from explainers.base import Result
    from explainers.maximization.tables import Table


RANKED = ("rank", "channel")
_BOXES = ("receptive_field", "crop")
"""What references have of images alone."""


def axes(path: Sequence[Any], n_axes: int, beside: Collection[Any]) -> tuple[str, ...]:
    """Return what the axes of an array are called, see `explainers.base.Scan.axes`."""
    if path[-1] == PER_CLASS:
        return ("class",)
    if path[-1] in _BOXES:
        return (*RANKED, "box")
    if path[-1] == "heatmap":
        if set(_BOXES) & set(beside):
            return (*RANKED, "height", "width")
        return (*RANKED, *(f"input_{axis}" for axis in range(n_axes - len(RANKED))))
    return RANKED[len(RANKED) - n_axes :]


def by_score(table: Table) -> Result:
    """Return the lists of a table of one group."""
    return {
        score: {name: _plain(array) for name, array in arrays.items()}
        for score, arrays in tables.arrays(table).items()
    }


def by_class(table: Table) -> dict[int, Result]:
    """Return the lists of a table by class, all as long as the longest.

    Those of a class are slices of arrays that hold all.
    """
    classes, place, counts = torch.unique(table.group, return_inverse=True, return_counts=True)
    rank = torch.arange(len(place), device=place.device) - (counts.cumsum(0) - counts)[place]
    longest = int(counts.max()) if len(classes) else 0
    stacked: dict[str, dict[str, Tensor]] = {}
    for score, arrays in tables.arrays(table).items():
        stacked[score] = {}
        for name, array in arrays.items():
            rows = _plain(array)
            fill = torch.nan if rows.is_floating_point() else -1
            filled = rows.new_full((len(classes), longest, rows.shape[1]), fill)
            filled[place, rank] = rows
            stacked[score][name] = filled
    return {
        each: {
            score: {name: array[row] for name, array in arrays.items()}
            for score, arrays in stacked.items()
        }
        for row, each in enumerate(classes.tolist())
    }


def _plain(array: Tensor) -> Tensor:
    """Return values as they are and whole numbers as int64."""
    return array if array.is_floating_point() else array.long()
