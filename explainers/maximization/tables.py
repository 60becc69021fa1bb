"""Tables of lists, one group below the other: what is best of entries, and how it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from explainers.maximization import order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.base import State

SCORES = ("sum_normed", "sum", "max_normed", "max")
"""A channel's sum or its greatest value, as a share of the layer's or as such."""


PER_CLASS = "per_class"
"""Stands before the entries of classes, in the names of a state and in results."""


class Table(NamedTuple):
    """Entries of every channel for all `SCORES`, in rows; each row belongs to a group."""

    keys: Tensor
    """What entries are ordered by, `order.keys`, ``(rows, score * channel)``."""
    position: Tensor
    """Where in the layer the greatest value is, int32, ``(rows, score * channel)``."""
    group: Tensor
    """Int64, ``(rows,)``."""


def best(entries: Table, k: int) -> Table:
    """Return the lists of each group: its k best entries in every channel, best first.

    Groups are in ascending order, each with as many rows as its longest list. Groups of about as
    many rows are looked at together, so that there are few steps for any number of groups.
    """
    group, rows = entries.group.sort(stable=True)
    groups, counts = torch.unique_consecutive(group, return_counts=True)
    starts = counts.cumsum(0) - counts
    # Sizes from k to 2 k are together, those from 2 k to 4 k, and so on: this wastes half at most.
    sizes = (counts / k).log2().ceil()
    pieces: list[Table] = []
    for size in torch.unique(sizes):
        chosen = (sizes == size).nonzero()[:, 0]
        n = int(counts[chosen].max())
        rank = torch.arange(n, device=rows.device)
        places = (starts[chosen, None] + rank).clamp(max=len(rows) - 1)
        is_row = rank < counts[chosen, None]
        pieces.append(_best_of_some(entries, groups[chosen], rows[places], is_row, k))
    if not pieces:
        return entries
    found = pieces[0]
    if len(pieces) > 1:
        found = joined(pieces)
        found = Table(*(part[found.group.argsort(stable=True)] for part in found))
    return _without_empty_rows(found)


def _best_of_some(entries: Table, groups: Tensor, rows: Tensor, is_row: Tensor, k: int) -> Table:
    """Return the lists of groups that have about equally many rows: ``(group, row)``."""
    n_kept = min(k, rows.shape[1])
    group = groups[:, None].expand(-1, n_kept).flatten()
    if len(groups) == 1 and rows.shape[1] == len(entries.keys):
        # Its rows may be taken in any order.
        keys, places = _top(entries.keys, n_kept)
        return Table(keys, entries.position.gather(0, places), group)
    keys = entries.keys[rows].masked_fill_(~is_row[..., None], order.NONE)  # (group, row, channel)
    if n_kept == rows.shape[1] and bool((keys[:, :-1] >= keys[:, 1:]).all()):
        return Table(keys.flatten(0, 1), entries.position[rows.flatten()], group)
    keys, places = _top(keys, n_kept)
    places = rows.gather(1, places.flatten(1)).view_as(places)
    position = entries.position.gather(0, places.flatten(0, 1))
    return Table(keys.flatten(0, 1), position, group)


def _top(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k greatest keys over the rows and where they are, ``(..., row, channel)``."""
    # A column is read several times, so it is laid out in one piece.
    top, places = keys.mT.contiguous().topk(k, dim=-1)
    return top.mT.contiguous(), places.mT.contiguous()


def _without_empty_rows(table: Table) -> Table:
    """Return the rows that have an entry; positions are -1 where there is none."""
    is_listed = table.keys != order.NONE
    if bool(is_listed.all()):
        return table
    table = table._replace(position=torch.where(is_listed, table.position, -1))
    is_kept = is_listed.any(1)
    return Table(*(part[is_kept] for part in table))


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of all tables, of as many channels each."""
    if len(tables) == 1:
        return tables[0]
    return Table(*(torch.cat(parts) for parts in zip(*tables, strict=True)))


def arrays(table: Table) -> dict[str, dict[str, Tensor]]:
    """Return ``value``, ``sample`` and ``position`` by score, ``(rows, channel)`` each."""
    shape = (len(table.keys), len(SCORES), table.keys.shape[1] // len(SCORES))
    parts = [part.reshape(shape).unbind(1) for part in (table.keys, table.position)]
    return {
        score: {
            "value": order.values(keys),
            "sample": order.samples(keys),
            "position": position.contiguous(),
        }
        for score, keys, position in zip(SCORES, *parts, strict=True)
    }


def stored(name: str, table: Table) -> State:
    """Return the arrays as entries of a state, ``name`` in front; groups are not among them."""
    return {
        f"{name}/{score}/{field}": array
        for score, each in arrays(table).items()
        for field, array in each.items()
    }


def restored(name: str, state: State, group: Tensor | None = None) -> Table:
    """Return the table that was stored with this name in front, of one group if none are given."""
    parts = [
        torch.cat([state[f"{name}/{score}/{field}"] for score in SCORES], 1)
        for field in ("value", "sample", "position")
    ]
    if group is None:
        group = torch.zeros(len(parts[0]), dtype=torch.int64, device=parts[0].device)
    return Table(order.keys(parts[0], parts[1]), parts[2], group)
