"""Relations as pairs of integers, sorted by the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def members_of(keys: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Return where asked keys occur.

    Parameters
    ----------
    keys
        int64 ``(entries,)``, ascending.
    asked
        int64 ``(asked,)``, any keys in any order.

    Returns
    -------
    position, entry
        int64 each: ``keys[entry] == asked[position]``, by position, then entry.
    """
    keys, asked = keys.contiguous(), asked.contiguous()
    start = torch.searchsorted(keys, asked)
    count = torch.searchsorted(keys, asked, right=True) - start
    position = torch.arange(len(asked), device=asked.device).repeat_interleave(count)
    before = (count.cumsum(0) - count)[position]
    entry = start[position] + torch.arange(len(position), device=asked.device) - before
    return position, entry


def distinct(*columns: Tensor) -> tuple[Tensor, ...]:
    """Return the distinct rows of columns, in lexicographic order."""
    if not len(columns[0]):
        return columns
    rows: Tensor = torch.unique(torch.stack(columns, 1), dim=0)
    return tuple(rows.unbind(1))
