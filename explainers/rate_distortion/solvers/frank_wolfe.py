"""Least distortion at a bounded rate, by steps towards hard masks that gradients point to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from explainers import numeric
from explainers.rate_distortion.solvers.iterating import Point, Rows, begun, iterated

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems, Solution


@dataclass(frozen=True)
class FrankWolfe:
    """Conditional gradients with the steps that need no line search.

    ``min D(s)`` with ``mean(s) <= rate`` and ``0 <= s <= 1``: ``s <- s + 2 / (t + 2) (v - s)``,
    where v is one at the k entries with the most negative gradient, ``k = rate * d`` (a fraction of
    one at the last), and zero elsewhere (Frank and Wolfe 1956, doi:10.1002/nav.3800030109; Jaggi
    2013; for this objective Macdonald, Besancon and Pokutta 2022, arXiv:2110.08105). The largest
    decrease that the gradient promises, ``<g, s - v>``, tells when to stop. Where problems have a
    price in place of a rate, k is d and the price belongs to the objective.
    """

    n_steps: int = 300
    """Evaluations at most."""
    tolerance: float = 1e-2
    """Stop at a gap of this times the objective."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_steps", self.n_steps)
        numeric.check_finite("tolerance", self.tolerance)

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best of the masks that were passed; starts are moved to the nearest legal."""
        rows, start = begun(distortion, problems)
        return iterated(rows, _Conditional(start, start), self.n_steps, self.tolerance)


@dataclass(frozen=True, eq=False)
class _Conditional:
    """Where the iteration is, and its best point."""

    point: Point
    best: Point

    def at(self, kept: Tensor) -> Self:
        return replace(self, point=self.point.at(kept), best=self.best.at(kept))

    def advanced(self, rows: Rows, step: int) -> Self:
        mask = self.point.mask
        # in exact numbers a mean of masks stays in the box and below the bound
        moved = mask.lerp(rows.vertex(self.point), 2 / (step + 2))
        point = rows.point(moved.clamp(0, 1))
        return replace(self, point=point, best=self.best.better(point))
