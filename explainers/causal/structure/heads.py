"""Rules for attention and products of values: a head is one unit, which stands for all it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.causal.structure.passing import merged
from explainers.causal.structure.table import channels
from explainers.causal.structure.units import Units, broadcast, shared_over
from explainers.operators import Attention, MatrixProduct

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    found = shared_over(known, (-2, -1), setting.register)
    return broadcast(found, shape)
