"""What attributions have in common that leave the work to an estimator of Shapley values."""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left
from typing import TYPE_CHECKING

from explainers import backgrounds, numeric
from explainers.base import Cost, Explained
from explainers.perturbing.fills import ASKED
from explainers.perturbing.method import Perturbation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers.network import Network
    from explainers.perturbing.estimate import Estimate
    from explainers.perturbing.game import Game
    from explainers.shapley.estimator import Estimator
    from explainers.targets import Target
    from explainers.trace import Trace

_MORE = 10
"""Times a budget: who does not use that has nothing more to evaluate."""


class ByEstimator(Perturbation):
    """An estimator plays the games of a batch, within a budget; subclasses have the fields."""

    n_evaluations: int | None
    """Forward passes per sample at most; None for the estimator's default."""
    tolerance: float | None
    """Of standard errors, relative to values."""

    stochastic = True

    def __post_init__(self) -> None:
        if self.n_evaluations is not None:
            numeric.check_whole("n_evaluations", self.n_evaluations, 2)
        if self.tolerance is not None:
            numeric.check_finite("tolerance", self.tolerance)

    @property
    @abstractmethod
    def _estimator(self) -> Estimator:
        """What does the work."""

    @property
    def _is_random(self) -> bool:
        """Whether absent features are drawn."""
        return self.background is not None

    @property
    def cost(self) -> Cost:
        """Forward passes alone; how many depends on the features, unless they are asked for."""
        return Cost(forward=math.nan if self.n_evaluations is None else self.n_evaluations)

    def n_passes(self, n_features: int) -> float:
        """Return what is used of the budget, where no sample is done before."""
        budget = self._budget(n_features)
        return self._estimator.used(n_features, budget, is_random=self._is_random)

    def check(self, network: Network) -> None:
        """Refuse besides what draws of a background would take that are not made."""
        super().check(network)
        n_features = self.n_features(network)
        if n_features is not None and n_features > 1 and self._is_random:
            self._check_draws(n_features)

    def _check_draws(self, n_features: int) -> None:
        budget = self._budget(n_features)
        most = self._estimator.used(n_features, _MORE * budget, is_random=True)
        if self.n_evaluations is not None and budget > most:
            what = f"n_evaluations={budget}"
        elif self.tolerance is not None and budget >= most:
            what = f"tolerance={self.tolerance}"
        else:
            return
        raise ValueError(
            f"{self.name} got {what} and a background, but the estimator {self._estimator.name} "
            f"ends after {most} evaluations for {n_features} features, when each coalition has "
            "seen one draw; take shapley_value_sampling with estimator: permutation, which goes on "
            "drawing, or fewer n_evaluations and no tolerance"
        )

    def check_features(self, n_features: int) -> None:
        """Refuse so many features, or the budget for them."""
        self._estimator.check(n_features, self.n_evaluations, self.tolerance)

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return how many features are too many, or whether standard errors cannot be known."""
        n_features = self.n_features(network)
        if n_features is None:
            return self._bound(math.prod(network.input_shape))
        estimator = self._estimator.chosen(n_features, self.n_evaluations)
        least = estimator.least_with_error(n_features, is_random=self._is_random)
        if self.n_passes(n_features) >= least:
            return ()
        return (
            f"{self.name} has no standard errors (NaN) below {least} evaluations for {n_features} "
            f"features with the estimator {estimator.name}",
        )

    def _bound(self, n_values: int) -> tuple[str, ...]:
        n_most = bisect_left(range(1, n_values + 1), True, key=self._refuses)
        if n_most == n_values:
            return ()
        return (
            f"{self.name} serves samples of at most {n_most} features with these parameters; one "
            "with more fails, and its shard with it",
        )

    def _refuses(self, n_features: int) -> bool:
        try:
            self.check_features(n_features)
        except ValueError:
            return True
        return False

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``n_evaluations`` ``(batch,)`` and what the estimator finds beside it."""
        return self.explained(trace, self._estimates(trace, target))

    def _estimates(self, trace: Trace, target: Target) -> Iterator[tuple[Game, Estimate]]:
        seed = trace.shared_seed("coalitions")
        for game in self.games(trace, target):
            self._check_game(game)
            budget = self._budget(game.n_features)
            yield game, self._estimator.estimate(game, budget, seed, self.tolerance)

    def _check_game(self, game: Game) -> None:
        # where features depend on the sample, nobody has looked at their number before
        try:
            self.check_features(game.n_features)
        except ValueError as error:
            raise ValueError(
                f"{error}. Where each sample has features of its own, give what is enough for the "
                "one with the most, or leave n_evaluations out: the default grows with them"
            ) from error

    def _budget(self, n_features: int) -> int:
        if self.n_evaluations is not None:
            return self.n_evaluations
        if not self._is_random:
            return self._estimator.default(n_features)
        n_rows = len(backgrounds.rows(self.background, ASKED))
        return self._estimator.default_drawn(n_features, n_rows)
