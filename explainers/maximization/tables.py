"""Tables of lists, one group below the other: what is best of entries, and how it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from explainers.maximization import order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.base import State


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
        places = starts[counts == n][:, None] + torch.arange(n, device=rows.device)
        pieces.append(_best_of_equal(entries, rows[places], k))
    if not pieces:
        return entries
    found = pieces[0]
    if len(pieces) > 1:
        found = joined(pieces)
        found = Table(*(part[found.group.argsort(stable=True)] for part in found))
    return _without_empty_rows(found)


def _best_of_equal(entries: Table, rows: Tensor, k: int) -> Table:
    """Return the lists of groups that have equally many rows: ``(group, rows of the group)``."""
    n_groups, n = rows.shape
    n_kept = min(k, n)
    is_whole = n_groups == 1 and n == len(entries.keys)
    # All rows of one group are looked at where they are: any order will do.
    keys = entries.keys[None] if is_whole else entries.keys[rows]  # (group, rows, channel)
    group = entries.group[rows[:, :n_kept]].flatten()
    if n_kept == n and bool((keys[:, :-1] >= keys[:, 1:]).all()):
        found = entries.position if is_whole else entries.position[rows].flatten(0, 1)
        return Table(keys.flatten(0, 1), found, group)
    keys, places = keys.topk(n_kept, dim=1)
    if not is_whole:
        places = rows.gather(1, places.flatten(1)).view_as(places)
    position = entries.position.gather(0, places.flatten(0, 1))
    return Table(keys.flatten(0, 1), position, group)


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
