"""The estimator that reaches the least error with a budget, as far as was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from explainers.shapley.estimator import Estimator, estimators, made, register
from explainers.shapley.exact import MOST

if TYPE_CHECKING:
    from explainers.perturbing.estimate import Estimate
    from explainers.shapley.estimator import GameLike
    from explainers.shapley.permutation import Order

EXACT = 12
"""Features up to which all 4096 coalitions are looked at where no budget is given."""

ODD_FEATURES = 200
"""Features up to which a fit of odd functions was tried."""


@register("auto")
@dataclass(frozen=True)
class Auto(Estimator):
    """One of the others, by the number of features and the budget.

    `exact` where the budget allows for all coalitions, or where none is given and there are at
    most 12 features; `permutation` below four evaluations a feature, where a regression has too
    little to go by, above 200 features, and above the budget that `odd` can take; else `odd`.
    """

    antithetic: bool = True
    order: Order = "insertion"

    has_standard_error: ClassVar[bool] = True

    def chosen(self, n_features: int, n_evaluations: int | None) -> Estimator:
        """Return the estimator for a game of this size."""
        parameters = {"antithetic": self.antithetic, "order": self.order}
        return made(_chosen(n_features, n_evaluations), parameters)

    def least(self, n_features: int) -> int:
        """Return the smallest budget of any."""
        permutation = made("permutation", {"antithetic": self.antithetic}).least(n_features)
        return permutation if n_features > MOST else min(permutation, 2**n_features)

    def default(self, n_features: int) -> int:
        """Return the default of the one that is chosen without a budget."""
        return self.chosen(n_features, None).default(n_features)

    def used(self, n_features: int, n_evaluations: int, *, is_random: bool = False) -> int:
        """Return what the one that is chosen uses."""
        chosen = self.chosen(n_features, n_evaluations)
        return chosen.used(n_features, n_evaluations, is_random=is_random)

    def check(
        self, n_features: int, n_evaluations: int | None, tolerance: float | None = None
    ) -> None:
        """Refuse what the one that is chosen refuses."""
        self.chosen(n_features, n_evaluations).check(n_features, n_evaluations, tolerance)

    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return what the one that is chosen finds."""
        chosen = self.chosen(game.n_features, n_evaluations)
        return chosen.estimate(game, n_evaluations, seed, tolerance)


def _chosen(n_features: int, n_evaluations: int | None) -> str:
    if n_evaluations is None:
        if n_features <= EXACT:
            return "exact"
    elif n_features <= MOST and 2**n_features <= n_evaluations:
        return "exact"
    elif n_evaluations < 4 * n_features or n_evaluations > _most():
        return "permutation"
    return "odd" if n_features <= ODD_FEATURES else "permutation"


def _most() -> float:
    """Return the largest budget for a fit, whose time and memory grow faster than the budget."""
    most = estimators.get("odd").most_evaluations
    return math.inf if most is None else most
