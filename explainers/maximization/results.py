"""What lists finalise to: arrays of one length by layer, score and class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.maximization import order, tables
from explainers.maximization.tables import PER_CLASS, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Result, State


def of_layer(state: State) -> Result:
    """Return the lists of the one layer that a state has, by score; those of classes as well."""
    result: Result = {}
    of_classes: dict[str, Table] = {}
    for name in tables.names_of(state):
        table, score = tables.restored(name, state), name.rsplit("/", 1)[1]
        if tables.is_per_class(name):
            of_classes[score] = table
        else:
            result[score] = _form(table)
    return {**result, PER_CLASS: _by_class(of_classes)} if of_classes else result


def _by_class(found: Mapping[str, Table]) -> Result:
    """Return lists by class and score, as long as the longest of any class."""
    classes = torch.unique(torch.cat([table.group for table in found.values()]))
    forms = {score: _form(_side_by_side(table, classes)) for score, table in found.items()}
    return {
        each: {
            score: {field: values[place] for field, values in lists.items()}
            for score, lists in forms.items()
        }
        for place, each in enumerate(classes.tolist())
    }


def _form(table: Table) -> Result:
    return {
        "sample": order.samples(table.keys).long(),
        "value": order.values(table.keys),
        "position": table.position.long(),
    }


def _side_by_side(table: Table, groups: Tensor) -> Table:
    """Return the lists of these groups, ``(group, rank, channel)``, short ones filled."""
    place = torch.searchsorted(groups, table.group)
    counts = torch.bincount(place, minlength=len(groups))
    rank = torch.arange(len(place), device=place.device) - (counts.cumsum(0) - counts)[place]
    longest = int(counts.max()) if len(groups) else 0
    shape = (len(groups), longest, table.keys.shape[1])
    keys = table.keys.new_full(shape, order.NONE)
    position = table.position.new_full(shape, -1)
    keys[place, rank] = table.keys
    position[place, rank] = table.position
    return Table(keys, position, groups)
