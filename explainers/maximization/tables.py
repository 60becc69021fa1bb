"""Tables of lists, one group below the other: what is best of entries, and how it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from explainers.maximization import order

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from explainers.base import State

PER_CLASS = "per_class"
"""Stands before the score in the names of tables of classes."""


class Table(NamedTuple):
    """Entries of every channel, in rows; each row belongs to a group."""

    keys: Tensor
    """What entries are ordered by, `order.keys`, ``(rows, channel)``."""
    position: Tensor
    """Where in the layer the greatest value is, int32, ``(rows, channel)``."""
    group: Tensor
    """Int64, ``(rows,)``."""


def best(entries: Table, k: int) -> Table:
    """Return the lists of each group: its k best entries in every channel, best first.

    Groups are in ascending order, each with as many rows as its longest list. There is a step for
    each number of rows that groups have, not for each group.
    """
    group, rows = entries.group.sort(stable=True)
    _, counts = torch.unique_consecutive(group, return_counts=True)
    starts = counts.cumsum(0) - counts
    pieces: list[Table] = []
    for n in counts.unique().tolist():
        taken = rows[starts[counts == n][:, None] + torch.arange(n, device=rows.device)]
        pieces.append(_best_of_equal(entries, taken, k))
    if len(pieces) == 1:
        found = pieces[0]
    elif pieces:
        found = joined(pieces)
        found = Table(*(part[found.group.argsort(stable=True)] for part in found))
    else:
        found = entries
    return _without_empty_rows(found)


def _best_of_equal(entries: Table, rows: Tensor, k: int) -> Table:
    """Return the lists of groups that have equally many rows: ``(group, rows of the group)``."""
    n = rows.shape[1]
    keys, position = entries.keys[rows], entries.position[rows]  # (group, rows, channel)
    if n > 1:
        keys, places = keys.topk(min(k, n), dim=1)
        position = position.gather(1, places)
    group = entries.group[rows[:, : keys.shape[1]]]
    return Table(keys.flatten(0, 1), position.flatten(0, 1), group.flatten())


def _without_empty_rows(table: Table) -> Table:
    """Return the rows that have an entry; positions are -1 where there is none."""
    is_listed = table.keys != order.NONE
    table = table._replace(position=torch.where(is_listed, table.position, -1))
    is_kept = is_listed.any(1)
    return table if bool(is_kept.all()) else Table(*(part[is_kept] for part in table))


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of all tables, of as many channels each."""
    return Table(*(torch.cat(parts) for parts in zip(*tables, strict=True)))


def stored(name: str, table: Table, *, has_groups: bool) -> State:
    """Return the table as entries of a state, ``name`` in front."""
    state = {
        f"{name}/value": order.values(table.keys),
        f"{name}/sample": order.samples(table.keys),
        f"{name}/position": table.position,
    }
    return {**state, f"{name}/class": table.group} if has_groups else state


def restored(name: str, state: State) -> Table:
    """Return the table that was stored with this name in front."""
    value, position = state[f"{name}/value"], state[f"{name}/position"]
    group = state.get(f"{name}/class")
    if group is None:
        group = torch.zeros(len(value), dtype=torch.int64, device=value.device)
    return Table(order.keys(value, state[f"{name}/sample"]), position, group)


def taken(name: str, state: State) -> State:
    """Return a table's entries as they are."""
    return {key: value for key, value in state.items() if key.rsplit("/", 1)[0] == name}


def names_of(entries: Iterable[str]) -> list[str]:
    """Return the names of the tables to which entries belong, sorted."""
    return sorted({entry.rsplit("/", 1)[0] for entry in entries})


def layer_of(entry: str) -> str:
    """Return the name of an entry's layer, with what stands in front of it."""
    return entry.rsplit("/", 2)[0].removesuffix(f"/{PER_CLASS}")


def is_per_class(name: str) -> bool:
    """Whether a table is one of the lists of classes."""
    return name.rsplit("/", 2)[-2] == PER_CLASS
