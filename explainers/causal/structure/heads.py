"""Rules for attention and products of values: a head is one unit, which stands for all it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.causal.structure.passing import merged
from explainers.causal.structure.table import channels
from explainers.causal.structure.units import NOTHING, Units, compact
from explainers.operators import Attention, MatrixProduct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.causal.structure.passing import Given
    from explainers.causal.structure.table import Setting


@channels.rule(Attention)
def attention(op: Attention, units: Given, setting: Setting) -> Units | None:
    """Make a unit of each head, of all units of its queries, keys and values."""
    n_heads = setting.shapes[op.name][-3] if len(setting.shapes[op.name]) > 2 else 1
    given = [_repeated(one, n_heads) if op.enable_gqa and one is not None else one for one in units]
    return _heads(given, setting.shapes[op.name], setting)


@channels.rule(MatrixProduct)
def product(op: MatrixProduct, units: Given, setting: Setting) -> Units | None:
    """Make a unit of each product of two values; a fixed matrix mixes the places of an axis."""
    left, right = units
    shape = setting.shapes[op.name]
    if left is None or right is None:
        return merged(op, left or right, (-1,) if right is None else (-2,), setting)
    return _heads(units, shape, setting)


def _repeated(units: Units, n_heads: int) -> Units:
    """Repeat the heads of keys and values that several heads of queries share."""
    index = units.index.repeat_interleave(n_heads // units.index.shape[-3], -3)
    return Units(index, units.table)


def _heads(given: Sequence[Units | None], shape: tuple[int, ...], setting: Setting) -> Units:
    """Return a unit for each set of units that occurs at a leading index, all but two axes."""
    known = [one for one in given if one is not None]
    units: Tensor = torch.unique(torch.cat([one.table.flatten() for one in known]))
    units = units[units != NOTHING]
    parts = [_members(one, units) for one in known]
    members = parts[0]
    for part in parts[1:]:
        members = members | part
    rows, inverse = torch.unique(members.flatten(0, -2), dim=0, return_inverse=True)
    shared = setting.register.share(rows, units)
    index = inverse.view(*members.shape[:-1], 1, 1).expand(shape)
    return Units(index, shared[:, None])


def _members(one: Units, units: Tensor) -> Tensor:
    """Return which units occur at each leading index, bool ``(*leading, units)``."""
    index = compact(one.index)
    leading = index.shape[:-2]
    flat = index.reshape(max(1, leading.numel()), -1)
    has_row = torch.zeros(len(flat), len(one.table), dtype=torch.bool).scatter_(1, flat, value=True)
    column = torch.searchsorted(units, one.table.contiguous()).clamp_(max=max(0, len(units) - 1))
    of_row = torch.zeros(len(one.table), len(units), dtype=torch.bool)
    row, at = (one.table != NOTHING).nonzero(as_tuple=True)
    of_row[row, column[row, at]] = True
    found = (has_row.double() @ of_row.double()) > 0
    return found.view(*leading, len(units))
