"""Values in blocks that stay in a CPU's cache while several functions are computed of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from explainers.rules.moments.forms import Form

_BLOCK_BYTES = 1 << 17
"""Of each tensor: about ten of them are in use at once, and caches of 1 to 2 MiB are usual."""
_ROWS_BYTES = 1 << 20
"""Of a block of factors, three of which are in use at once."""
_LEAST = 64
"""Values of a row in such a block."""


def alike(value: Tensor, like: Tensor) -> Tensor:
    """Return a value in the memory layout of another of its shape."""
    if value.stride() == like.stride():
        return value
    return torch.empty_like(like).copy_(value)


def blocks(
    given: Sequence[Tensor], made: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield parts of what is given, and of what is to be made of it, flat in memory's order.

    Parameters
    ----------
    given, made
        Of one shape and layout; where that leaves gaps in memory, they come whole.
    """
    first = made[0]
    size = _BLOCK_BYTES // first.element_size()
    if first.device.type != "cpu" or first.numel() <= size or not _is_dense([*given, *made]):
        yield list(given), list(made)
        return
    parts = [one.as_strided((one.numel(),), (1,)) for one in (*given, *made)]
    for start in range(0, first.numel(), size):
        together = [part[start : start + size] for part in parts]
        yield together[: len(given)], together[len(given) :]


def row_blocks(
    form: Form, name: str, rows: Sequence[Tensor], shared: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield parts of spreads, with an axis 1 of a sample's K rows, and parts of what they share.

    Parameters
    ----------
    form, name
        Say where the rows are: the operator whose spread and mean they are shaped as.
    rows
        Shaped as the spread, of one layout.
    shared
        Shaped as the mean, of one layout; their axis 1 is one long.
    """
    # what both have of a sample is paired by its place in memory
    is_paired = rows[0].stride()[1:] == shared[0].stride()[1:]
    is_flat = is_paired and _is_dense(rows) and _is_dense(shared)
    if not form.is_plain(name) or not is_flat:
        yield (
            [axis_of(form, name, one, form.n_factors) for one in rows],
            [axis_of(form, name, one, 1) for one in shared],
        )
        return
    n_rows, n_values = len(shared[0]), shared[0].numel() // max(len(shared[0]), 1)
    parts = [_flat(one, n_rows, form.n_factors, n_values) for one in rows]
    others = [_flat(one, n_rows, 1, n_values) for one in shared]
    size = n_values
    if rows[0].device.type == "cpu":
        size = max(_ROWS_BYTES // (rows[0].element_size() * max(len(rows[0]), 1)), _LEAST)
    for start in range(0, n_values, max(size, 1)):
        part = slice(start, start + size)
        yield [one[:, :, part] for one in parts], [one[:, :, part] for one in others]


def axis_of(form: Form, name: str, value: Tensor, n_factors: int) -> Tensor:
    """Return a view whose axis 1 is that of a sample's rows; writing into it is writing there."""
    axis, apart = form.apart(name, value, n_factors)
    return apart.movedim(axis, 1)


def _flat(value: Tensor, batch: int, n_factors: int, n_values: int) -> Tensor:
    return value.as_strided((batch, n_factors, n_values), (n_factors * n_values, n_values, 1))


def _is_dense(values: Sequence[Tensor]) -> bool:
    """Return whether all have one layout without gaps, row by row."""
    first = values[0]
    is_dense = first.is_contiguous() or (
        first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last)
    )
    return is_dense and all(one.stride() == first.stride() for one in values)
