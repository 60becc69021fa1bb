"""Least distortion at a bounded rate, by steps towards hard masks that gradients point to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.rate_distortion.solvers.widened import Widened

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.solvers.iterating import Point, Rows, State


@dataclass(frozen=True)
class FrankWolfe(Widened):
    """Conditional gradients with the steps that need no line search.

    ``min D(s)`` with ``mean(s) <= rate`` and ``0 <= s <= 1``: ``s <- s + 2 / (t + 2) (v - s)``,
    where v is one at the k entries with the most negative gradient, ``k = rate * d`` (a fraction of
    one at the last), and zero elsewhere (Frank and Wolfe 1956, doi:10.1002/nav.3800030109; Jaggi
    2013; for this objective Macdonald, Besancon and Pokutta 2022, arXiv:2110.08105). The largest
    decrease that the gradient promises, ``<g, s - v>``, tells when to stop. Where problems have a
    price in place of a rate, k is d and the price belongs to the objective.
    """

    tolerance: float = 1e-2
    """Of the gap, relative to the objective."""

    def advance(self, state: State, rows: Rows, point: Point, step: int) -> Tensor:
        """Return masks between the last ones and those that their gradients point to."""
        vertex = rows.feasible.vertex(point.gradient, rows.n_most)
        # in exact numbers a mean of masks stays in the box and below the bound
        return point.mask.lerp(vertex, 2 / (step + 3)).clamp(0, 1)
