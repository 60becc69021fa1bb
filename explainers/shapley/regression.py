"""Weighted least squares for Shapley values, solved once for all rows that share a design."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from explainers.shapley.design import drawn
from explainers.shapley.staged import Found, one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.shapley.design import Design, Options

_SINGULAR = 1e-10
"""Smallest eigenvalue, relative to the largest, of normal equations that say something."""

_ATTEMPTS = 64

_CERTAIN = 1e-6
"""A coalition whose leverage is nearer to 1 than this cannot be held out: the rest does not tell
what it is worth."""

_OWED = 1e-12
"""Part of a value's squared weights that is rounding."""


@dataclass(frozen=True, eq=False)
class Regression:
    """Least squares of what was observed on who was there, with the sum over features given.

    ``phi = rise / n + H (y - X 1 rise / n)``, ``H = (Xc' W Xc)^+ Xc' W``, where X, ``(coalitions,
    features)``, says who was there (+-1/2 in a pair), and Xc is X without its mean over features:
    the efficiency constraint is eliminated, not penalised.
    """

    there: Tensor
    """X, ``(coalitions, features)``."""
    matrix: Tensor
    """H, ``(features, coalitions)``."""
    held_out: Tensor
    """``1 - leverage`` of each coalition, held out as often as it was drawn."""
    luck: Tensor
    """Chance of each coalition not to have been among the first ones, ``(coalitions,)``."""

    def found(self, observed: Tensor, rise: Tensor) -> Found:
        """Return values; their errors are the sandwich of what each coalition, held out, is off by.

        ``error_i^2 = sum_S (1 - chance_S) (H_iS e_S / (1 - leverage_S))^2`` (HC3: MacKinnon and
        White 1985, doi:10.1016/0304-4076(85)90158-7), with what finite sampling without replacement
        takes off it; NaN where an error is owed to a coalition of which the rest tells nothing. The
        residual is the root mean square of ``e_S / (1 - leverage_S)`` of all others, NaN where
        there are none.
        """
        n_features = self.there.shape[1]
        even = rise[:, None] / n_features
        values = even + (observed - even * self.there.sum(1)) @ self.matrix.T
        off = observed - values @ self.there.T
        told = self.held_out > _CERTAIN
        off = torch.where(told, off / self.held_out, 0)
        owed = self.luck[:, None] * self.matrix.T.square()
        untold = (~told).to(owed) @ owed > _OWED * owed.sum(0)
        variance = (off.square() @ owed).masked_fill(untold, torch.nan)
        # where all coalitions were seen there is nothing left to tell
        nothing = self.luck.any() & ~told.any()
        residual = (off.square().sum(1) / told.sum().clamp(min=1)).sqrt()
        return Found(values, variance.sqrt(), residual.masked_fill(nothing, torch.nan))


@lru_cache(maxsize=8)
def determined(
    n_features: int, n_coalitions: int, n_first: int, seed: int, options: Options
) -> Design:
    """Return a design whose first coalitions determine the values: the first such that is drawn.

    With little more than `Kernel.least`, one in four does not for ten features, one in a hundred
    for 24.

    Raises
    ------
    ValueError
        If none is found.
    """
    for attempt in range(_ATTEMPTS):
        found = drawn(n_features, n_coalitions, seed ^ attempt, options)
        if _is_definite(_equations(found, min(n_first, len(found.members)))[-1]):
            return found
    what = "pairs of coalitions" if options.paired else "coalitions"
    raise ValueError(
        f"got {n_coalitions} random {what}, which do not determine the values of {n_features} "
        "features; give more n_evaluations"
    )


@lru_cache(maxsize=8)
@one_thread()
def solved(
    design: Design, n_first: int, device: torch.device, *, is_random: bool = False
) -> Regression:
    """Return the solution of the first coalitions of a design, which determine the values."""
    there, weighted, normal = _equations(design, n_first)
    chances = design.weights(n_first)[1]
    matrix = torch.cholesky_solve(weighted, torch.linalg.cholesky(normal))
    leverage = (there * matrix.T).sum(1)
    if design.options.replacement:
        # the others of a coalition that was drawn again know all about it
        same = torch.unique(design.members[:n_first], dim=0, return_inverse=True)[1]
        leverage = torch.zeros_like(leverage).index_add_(0, same, leverage)[same]
    luck = torch.ones_like(chances) if is_random else 1 - chances
    return Regression(
        there.to(device), matrix.to(device), (1 - leverage).to(device), luck.to(device)
    )


def _equations(design: Design, n_first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return X, ``Xc' W`` and normal equations that leave the sum over features alone."""
    there = design.members[:n_first].double()
    if design.options.paired:
        there -= 0.5
    centred = there - there.mean(1, keepdim=True)
    weighted = (centred * design.weights(n_first)[0][:, None]).T
    normal = weighted @ centred
    normal += (normal.diagonal().mean() if len(normal) > 1 else 1) / len(normal)
    return there, weighted, normal


def _is_definite(normal: Tensor) -> bool:
    values = torch.linalg.eigvalsh(normal)
    return bool(values[0] > _SINGULAR * values[-1])
