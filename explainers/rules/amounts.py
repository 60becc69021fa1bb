"""Amounts of relevance, summed over what belongs to one row of an operator's value.

Rows are along ``op.batch_axis``, which is not the first where sequences come first. Windows, heads
or places may be rows of their own; `explainers.rules.walking` adds up those of a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Convolution

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Linear, Operator


def per_row(op: Operator, amounts: Tensor) -> Tensor:
    """Return sums over all axes but that of the rows.

    Parameters
    ----------
    op
        Whose value has these rows.
    amounts
        With the axes of its value.
    """
    axes = tuple(axis for axis in range(amounts.ndim) if axis != op.batch_axis)
    return amounts.sum(axes) if axes else amounts


def by_output(op: Convolution | Linear, amounts: Tensor) -> Tensor:
    """Return sums over places, or tokens: of each row's output channels or features."""
    channel = 1 if isinstance(op, Convolution) else amounts.ndim - 1
    axes = tuple(axis for axis in range(amounts.ndim) if axis not in (op.batch_axis, channel))
    found = amounts.sum(axes) if axes else amounts
    return found if op.batch_axis < channel else found.mT
