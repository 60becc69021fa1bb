"""KernelSHAP: Shapley values by weighted least squares on coalitions that all rows share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from explainers.shapley import design, regression, staged
from explainers.shapley.estimator import Estimator, register

if TYPE_CHECKING:
    from explainers.perturbing.estimate import Estimate
    from explainers.shapley.estimator import GameLike


_MOST = 2**26
"""Coalitions times features: a matrix of so many takes 0.5 GB, and there are several."""


@register("kernel")
@dataclass(frozen=True)
class Kernel(Estimator):
    """Weighted least squares with the efficiency constraint eliminated (Lundberg and Lee 2017).

    ``phi = argmin sum_S w_S (v(S) - v(0) - sum_{i in S} phi_i)^2`` with ``sum phi = v(N) - v(0)``,
    ``w_S = 1 / (s (n - s) m_s)`` for m_s coalitions of size s: the Shapley kernel divided by the
    chance of S (arXiv:1705.07874; Covert and Lee 2021, arXiv:2012.01536; leverage scores: Musco and
    Witter 2025, arXiv:2410.01917). With pairs that is a regression of ``(v(S) - v(N - S)) / 2``.
    The solution is a matrix, computed once for a design. Biased by order ``1 / n_evaluations``;
    exact for games without interaction, and once all coalitions are seen.

    With little more evaluations than the least, some coalitions cannot be told by the others;
    standard errors of values that owe something to them are NaN, and do not meet a tolerance.
    Where absent features are drawn, each coalition (pair) is seen with one draw. Without
    replacement it ends when all are seen, exact for none of the draws; standard errors say so.
    """

    paired: bool = True
    """Whether each coalition comes with its complement."""
    stratified: bool = True
    """Whether sizes get as many coalitions each; otherwise they are drawn by the Shapley kernel."""
    replacement: bool = False
    """Whether a coalition may come several times."""

    has_standard_error = True

    @property
    def options(self) -> design.Options:
        """Of the design."""
        return design.Options(self.paired, self.stratified, self.replacement)

    def least(self, n_features: int) -> int:
        """Return two evaluations a feature, with the two ends, or those of all coalitions."""
        return min(2 * n_features + 2, 1 << n_features)

    def default(self, n_features: int) -> int:
        """Return 20 evaluations a feature, or those of all coalitions, or all it has room for."""
        room = 2 + _MOST // n_features * (2 if self.paired else 1)
        return max(min(20 * n_features, 1 << n_features, room), self.least(n_features))

    def used(self, n_features: int, n_evaluations: int, *, is_random: bool = False) -> int:
        """Return what is left when odd ones are dropped, and those beyond all coalitions."""
        return staged.used(self.options, n_features, n_evaluations)

    def check(
        self, n_features: int, n_evaluations: int | None, tolerance: float | None = None
    ) -> None:
        """Refuse a budget that does not do, and a design that is too large."""
        super().check(n_features, n_evaluations, tolerance)
        budget = self.default(n_features) if n_evaluations is None else n_evaluations
        n_coalitions = staged.coalitions(self.options, self.used(n_features, budget))
        if n_coalitions * n_features <= _MOST:
            return
        what = "pairs of coalitions" if self.paired else "coalitions"
        raise ValueError(
            f"the estimator {self.name} got {n_coalitions} {what} of {n_features} features, "
            f"expected at most {_MOST} of both multiplied; take coarser features, such as "
            "{grid: 14}, or fewer n_evaluations, or shapley_value_sampling with estimator: "
            "permutation"
        )

    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return values with their sandwich errors and the residual of coalitions held out."""
        n, options = game.n_features, self.options
        n_coalitions = staged.coalitions(options, self.used(n, n_evaluations))
        first = staged.coalitions(options, 2 * self.least(n))
        n_needed = n_coalitions if tolerance is None else first
        found = regression.determined(n, n_coalitions, n_needed, seed, options)
        solved = partial(
            regression.solved, found, device=game.full.device, is_random=game.is_random
        )
        return staged.estimate(game, found, solved, first, tolerance)
