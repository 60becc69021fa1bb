"""Units at the places of values: which channels of weighted layers a value is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.causal.structure.pairs import distinct, members_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_SHARED = 1 << 40
"""Numbers from here on are units that stand for several; there are never as many channels."""
NOTHING = -1
"""Stands where there is no unit."""


@dataclass(frozen=True, eq=False)
class Units:
    """Units at each place of a value: a row of a table for each place.

    Nearly all values repeat their units along every axis but one, so that `index` is a view that
    takes next to no memory, and what only moves places moves `index` alone.
    """

    index: Tensor
    """int64, shaped as the value: row of the table."""
    table: Tensor
    """int64 ``(rows, width)``: units that stand at a place, or `NOTHING`."""


class Register:
    """Numbers all units: the output channels of layers, and units that stand for several."""

    def __init__(self) -> None:
        self.n_layers = 0
        self._owners: list[Tensor] = []
        self._channels: list[Tensor] = []
        self._n_units = 0
        self._n_shared = 0
        self._is_statistic = torch.empty(0, dtype=torch.bool)
        self._shared = torch.empty(0, dtype=torch.int64)
        self._members = torch.empty(0, dtype=torch.int64)

    def enter(self, n_outputs: int) -> Tensor:
        """Return the units of one more layer, int64 ``(n_outputs,)``."""
        channels = torch.arange(n_outputs)
        self._owners.append(torch.full_like(channels, self.n_layers))
        self._channels.append(channels)
        units = channels + self._n_units
        self._n_units += n_outputs
        self.n_layers += 1
        return units

    def share(self, members: Tensor, units: Tensor, *, is_statistic: bool) -> Tensor:
        """Return a unit for each row of a matrix, which stands for those of its columns.

        Parameters
        ----------
        members
            bool ``(rows, columns)``.
        units
            int64 ``(columns,)``.
        is_statistic
            Whether it is a sum, mean or norm of them; see `joined`.
        """
        shared = torch.arange(len(members)) + self._n_shared + _SHARED
        self._n_shared += len(members)
        row, column = members.nonzero(as_tuple=True)
        group, member = self.resolved(shared[row], units[column])
        self._shared = torch.cat((self._shared, group))
        self._members = torch.cat((self._members, member))
        flags = torch.full((len(members),), is_statistic)
        self._is_statistic = torch.cat((self._is_statistic, flags))
        return shared

    def without_own_statistics(self, units: Tensor, others: Tensor) -> Tensor:
        """Return units but for statistics that cover all that stands beside them.

        Parameters
        ----------
        units, others
            int64 ``(rows, width)`` each, of as many rows.
        """
        row, column = (units >= _SHARED).nonzero(as_tuple=True)
        is_statistic = self._is_statistic[units[row, column] - _SHARED]
        row, column = row[is_statistic], column[is_statistic]
        if not len(row):
            return units
        beside = others[row]
        of_pair = torch.arange(len(row))[:, None].expand_as(beside)
        pair, member = self.resolved(of_pair.flatten(), beside.flatten())
        known = (self._shared - _SHARED) * self._n_units + self._members
        asked = (units[row, column][pair] - _SHARED) * self._n_units + member
        missed = torch.zeros(len(row)).index_add_(0, pair, (~torch.isin(asked, known)).float())
        has_others = torch.zeros(len(row)).index_add_(0, pair, torch.ones(len(pair))) > 0
        is_own = has_others & (missed == 0)
        kept = units.clone()
        kept[row[is_own], column[is_own]] = NOTHING
        return kept

    def resolved(self, group: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return pairs of a group and a unit with channels alone in place of what stands for them.

        `NOTHING` is left out; sorted, each pair once.
        """
        is_shared, is_channel = unit >= _SHARED, (unit != NOTHING) & (unit < _SHARED)
        position, entry = members_of(self._shared, unit[is_shared])
        groups = torch.cat((group[is_channel], group[is_shared][position]))
        members = torch.cat((unit[is_channel], self._members[entry]))
        found, units = distinct(groups, members)
        return found, units

    def places(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer of each channel's unit, in the order they were entered, and channel."""
        if not self._owners:
            return unit, unit
        return torch.cat(self._owners)[unit], torch.cat(self._channels)[unit]


def standing(units: Tensor, axis: int, shape: Sequence[int]) -> Units:
    """Return units that lie along one axis of a value and are the same along the others."""
    sizes = [1] * len(shape)
    sizes[axis] = len(units)
    index = torch.arange(len(units)).view(sizes).expand(tuple(shape))
    return Units(index, units[:, None])


def compact(index: Tensor) -> Tensor:
    """Return an index with the axes along which it only repeats at size 1."""
    for axis in range(index.ndim):
        if index.stride(axis) == 0:
            index = index.narrow(axis, 0, min(1, index.shape[axis]))
    return index


def settled(units: Units) -> Units:
    """Return the same units with every axis along which they are equal as one that repeats."""
    shape, index = units.index.shape, compact(units.index)
    for axis in range(index.ndim):
        first = index.narrow(axis, 0, min(1, index.shape[axis]))
        if index.shape[axis] > 1 and bool((index == first).all()):
            index = first
    return Units(index.expand(shape), units.table)


def broadcast(units: Units, shape: Sequence[int]) -> Units:
    """Return units at the places of a larger shape, as torch broadcasts."""
    return Units(units.index.expand(tuple(shape)), units.table)


def joined(
    first: Units | None, second: Units | None, shape: Sequence[int], register: Register
) -> Units | None:
    """Return, at each place, the units of both, broadcast.

    A statistic of the channels that stand beside it is left out: a value that is centred, scaled or
    gated by a mean or norm of what it is part of is still of its own channel, as behind a norm.
    """
    if first is None or second is None:
        one = second if first is None else first
        return None if one is None else broadcast(one, shape)
    if first.index is second.index and first.table is second.table:
        return broadcast(first, shape)
    left, right = (compact(one.index.expand(tuple(shape))) for one in (first, second))
    pairs, index = torch.unique(left * len(second.table) + right, return_inverse=True)
    left_rows = first.table[pairs // len(second.table)]
    right_rows = second.table[pairs % len(second.table)]
    right_rows = register.without_own_statistics(right_rows, left_rows)
    left_rows = register.without_own_statistics(left_rows, right_rows)
    rows = _once(torch.cat((left_rows, right_rows), 1))
    return Units(index.expand(tuple(shape)), rows)


def _once(rows: Tensor) -> Tensor:
    """Return rows of units with each unit once, the highest first and `NOTHING` last.

    What is joined with itself again and again, as along residual blocks, would double otherwise.
    """
    ordered = rows.sort(1).values
    ordered[:, 1:].masked_fill_(ordered[:, 1:] == ordered[:, :-1], NOTHING)
    ordered = ordered.sort(1, descending=True).values
    is_used = (ordered != NOTHING).any(0)
    return ordered[:, : max(1, int(is_used.sum()))]


def concatenated(
    parts: Sequence[Units | None], shapes: Sequence[Sequence[int]], axis: int
) -> Units | None:
    """Return the units of values that are joined along an axis."""
    given = [
        _nowhere(shape) if one is None else one for one, shape in zip(parts, shapes, strict=True)
    ]
    width = max(one.table.shape[1] for one in given)
    tables = [
        functional.pad(one.table, (0, width - one.table.shape[1]), value=NOTHING) for one in given
    ]
    indices = [one.index for one in given]
    for other in range(indices[0].ndim):
        if other != axis and all(index.stride(other) == 0 for index in indices):
            indices = [index.narrow(other, 0, 1) for index in indices]
    starts = [sum(len(table) for table in tables[:position]) for position in range(len(tables))]
    moved = [index + start for index, start in zip(indices, starts, strict=True)]
    shape = list(shapes[0])
    shape[axis] = sum(shape[axis] for shape in shapes)
    return settled(Units(torch.cat(moved, axis).expand(tuple(shape)), torch.cat(tables)))


def _nowhere(shape: Sequence[int]) -> Units:
    index = torch.zeros((1,) * len(shape), dtype=torch.int64).expand(tuple(shape))
    return Units(index, torch.full((1, 1), NOTHING))


def agreed(units: Units, axes: Sequence[int]) -> Units | None:
    """Return the units that places along axes agree on; where some are missing, others are right.

    A skip beside a border of zeros has fewer units there than elsewhere.

    Returns
    -------
    Units
        Size 1 along `axes`, and along others where the units repeat; None if units differ.
    """
    index = compact(units.index)
    merged = [axis % index.ndim for axis in axes]
    if all(index.shape[axis] == 1 for axis in merged):
        return Units(index, units.table)
    rows = _grouped(index, merged)
    n_kept = len(rows)
    n_rows = len(units.table)
    code = torch.unique(torch.arange(n_kept)[:, None] * n_rows + rows)
    place, found = code // n_rows, units.table[code % n_rows]
    order = (found != NOTHING).sum(1).argsort(stable=True)
    most = torch.zeros(n_kept, dtype=torch.int64)
    most.scatter_reduce_(0, place, order.argsort(), "amax")
    best = found[order[most]]
    has_several = (torch.bincount(place, minlength=n_kept) > 1)[place]
    if not _are_among(found[has_several], best[place[has_several]]):
        return None
    table, inverse = torch.unique(best, dim=0, return_inverse=True)
    sizes = [1 if axis in merged else index.shape[axis] for axis in range(index.ndim)]
    return Units(inverse.view(sizes), table)


def _are_among(rows: Tensor, others: Tensor) -> bool:
    """Return whether the units of each row are all in the other row, in whatever order."""
    return all(
        bool(((column == NOTHING) | (others == column[:, None]).any(1)).all())
        for column in rows.unbind(1)
    )


def shared_over(
    given: Sequence[Units], axes: Sequence[int], register: Register, *, is_statistic: bool = False
) -> Units:
    """Return a unit for each set of units that occurs along axes, in whatever order.

    Parameters
    ----------
    given
        Units of one value or more, whose other axes broadcast.
    axes
        Over which a set extends.
    register
        Enters the units.
    is_statistic
        See `Register.share`.

    Returns
    -------
    Units
        Size 1 along `axes`, and along others where the units repeat.
    """
    units: Tensor = torch.unique(torch.cat([one.table.flatten() for one in given]))
    units = units[units != NOTHING]
    members = _members(given[0], units, axes)
    for one in given[1:]:
        members = members | _members(one, units, axes)
    rows, inverse = torch.unique(members.flatten(0, -2), dim=0, return_inverse=True)
    shared = register.share(rows, units, is_statistic=is_statistic)
    return Units(inverse.view(members.shape[:-1]), shared[:, None])


def windows(
    units: Units,
    sizes: Sequence[int],
    steps: Sequence[int],
    spacing: Sequence[int],
    zeros: Sequence[tuple[int, int]],
) -> Units:
    """Return what windows over the last axes read, with an axis for each behind all others.

    Parameters
    ----------
    units
        Of the value; an axis along which they only repeat has one window with one place.
    sizes, steps, spacing
        Of the windows, an axis each: how many places, how far apart windows and places are.
    zeros
        Places before and after, where there is nothing.
    """
    table = functional.pad(units.table, (0, 0, 0, 1), value=NOTHING)
    index = compact(units.index)
    first = index.ndim - len(sizes)
    for number, (size, step, apart, around) in enumerate(
        zip(sizes, steps, spacing, zeros, strict=True)
    ):
        axis = first + number
        if index.shape[axis] == 1:
            index = index[..., None]
            continue
        moved = functional.pad(index.movedim(axis, -1), around, value=len(units.table))
        read = moved.unfold(-1, apart * (size - 1) + 1, step)[..., ::apart]
        index = read.movedim(-2, axis)
    return Units(index, table)


def _members(one: Units, units: Tensor, axes: Sequence[int]) -> Tensor:
    """Return which units occur along axes, bool ``(*shape, units)`` with the axes at size 1."""
    index = compact(one.index)
    merged = [axis % index.ndim for axis in axes]
    flat = _grouped(index, merged)
    has_row = torch.zeros(len(flat), len(one.table), dtype=torch.bool).scatter_(1, flat, value=True)
    of_row = torch.zeros(len(one.table), len(units), dtype=torch.bool)
    row, width = (one.table != NOTHING).nonzero(as_tuple=True)
    of_row[row, torch.searchsorted(units, one.table[row, width])] = True
    found = (has_row.float() @ of_row.float()) > 0
    sizes = [1 if axis in merged else index.shape[axis] for axis in range(index.ndim)]
    return found.view(*sizes, len(units))


def _grouped(index: Tensor, merged: Sequence[int]) -> Tensor:
    """Return ``(others, merged)``: all that is along some axes, for each place on the others."""
    kept = [axis for axis in range(index.ndim) if axis not in merged]
    n_kept = math.prod(index.shape[axis] for axis in kept)
    return index.permute(*kept, *merged).reshape(n_kept, -1)


def without(index: Tensor, axes: Sequence[int]) -> Tensor:
    """Return an index without axes of size 1."""
    dropped = {axis % index.ndim for axis in axes}
    return index.reshape([size for axis, size in enumerate(index.shape) if axis not in dropped])
