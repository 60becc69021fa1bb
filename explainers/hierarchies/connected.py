"""Connected components of selected cells, for all samples of a batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def components(selected: Tensor) -> Tensor:
    """Return the component of each selected cell, numbered in the order of their first cells.

    Cells that touch, at a side or at a corner, are in one component (8-connected); cells are in
    the order of rows. Each takes the smallest position of any that it touches, and then the one
    that this has, until nothing changes: some tens of rounds where components wind.

    Parameters
    ----------
    selected
        bool ``(batch, rows, columns)``; a sequence is one row.

    Returns
    -------
    Tensor
        int64 ``(batch, rows, columns)``, from 1 on, 0 where nothing is selected.
    """
    n_cells = selected[0].numel()
    flat = selected.flatten(1)
    own = torch.arange(n_cells, device=selected.device).expand_as(flat)
    first = torch.where(flat, own, n_cells)
    while True:
        # positions are whole numbers below 2**24 in any picture of cells
        around = -functional.max_pool2d(-first.view_as(selected)[:, None].float(), 3, 1, 1)
        found = torch.where(flat, around.flatten(1).long(), n_cells)
        found = torch.where(flat, found.gather(1, found.clamp(max=n_cells - 1)), n_cells)
        if torch.equal(found, first):
            break
        first = found
    numbers = (flat & (first == own)).cumsum(1)
    labels = torch.where(flat, numbers.gather(1, first.clamp(max=n_cells - 1)), 0)
    return labels.view_as(selected)
