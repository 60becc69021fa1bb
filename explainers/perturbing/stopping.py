"""When an estimate is good enough: a schedule that is the same for all rows, and a criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 8
"""Units before the first look: of fewer, a standard error says little."""

GROWTH = 4
"""A look after each further quarter: at most a fifth of the units were not needed."""


def looks(n_units: int, tolerance: float | None) -> list[int]:
    """Return after how many units rows may stop, ending with all of them.

    It depends on nothing else, so that a row stops at the same place in any batch.
    """
    found = []
    here = FIRST
    while tolerance is not None and here < n_units:
        found.append(here)
        here += max(1, here // GROWTH)
    return [*found, n_units]


def is_precise(values: Tensor, standard_error: Tensor | None, tolerance: float | None) -> Tensor:
    """Return which rows of ``(rows, features)`` are done.

    Those whose standard errors have a root mean square of at most `tolerance` times that of the
    values; never where errors are not known (NaN). All, where there is no tolerance, or no errors
    at all.
    """
    if standard_error is None or tolerance is None:
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    error, size = standard_error.square().mean(1), values.square().mean(1)
    return error <= tolerance**2 * size
