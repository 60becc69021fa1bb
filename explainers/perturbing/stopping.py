"""When an estimate is good enough: a schedule that is the same for all rows, and a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.sampling.map_moments import MapMoments

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


@dataclass(frozen=True, eq=False)
class Streamed:
    """Means over as many units as each row took."""

    mean: Tensor
    """``(rows, features)``."""
    error: Tensor
    """Standard errors of the means, ``(rows, features)``; NaN for one unit."""
    n_units: Tensor
    """Int64, ``(rows,)``."""


def streamed(
    moments: Callable[[Tensor, range], MapMoments],
    rows: Tensor,
    n_units: int,
    tolerance: float | None,
) -> Streamed:
    """Return means over units, of each row until they are precise enough.

    Parameters
    ----------
    moments
        Of some rows, in some units; called with units in order, each once.
    rows
        All of them, int64, from 0 on.
    n_units
        Units at most.
    tolerance
        See `is_precise`; None for all units.
    """
    here, so_far, found = rows, None, None
    for first, last in pairwise([0, *looks(n_units, tolerance)]):
        new = moments(here, range(first, last))
        so_far = new if so_far is None else so_far.merged(new)
        mean, error = so_far.mean, so_far.standard_error
        if found is None:
            found = Streamed(torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(rows))
        is_done = is_precise(mean, error, tolerance if last < n_units else None)
        done, still = here[is_done], ~is_done
        found.mean[done], found.error[done] = mean[is_done], error[is_done]
        found.n_units[done] = last
        here, so_far = here[still], so_far.of_rows(still)
        if not len(here):
            break
    if found is None:
        raise ValueError(f"got {n_units} units, expected at least one")
    return found
