"""Shapley values by a Gaussian process on odd functions of coalitions that all rows share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from explainers import numeric
from explainers.shapley import design, odd_process, staged
from explainers.shapley.estimator import Estimator, register

if TYPE_CHECKING:
    from explainers.perturbing.estimate import Estimate
    from explainers.shapley.estimator import GameLike

_OPTIONS = design.Options()


@register("odd")
@dataclass(frozen=True)
class Odd(Estimator):
    """Posterior mean of the Shapley values under a prior over odd functions.

    Shapley values depend only on ``d(S) = (v(S) - v(N - S)) / 2``, an odd function of z in
    {-1, 1}^n, and a term ``b prod_{i in T} z_i`` of it is worth ``2 b / |T|`` to each i in T. Terms
    of order 1, 3 and 5 have prior variances ``100 / n``, ``g3 / C(n, 3)`` and ``g5 / C(n, 5)``, all
    others, which are too many to be told apart, the common rest `lam` of every pair of coalitions.
    The posterior mean is linear, ``phi = L d``, with one matrix for all rows: see `odd_process`.
    What is left of a pair that was seen counts with the pair's own weight in Shapley's formula, so
    that efficiency holds always, and values are exact once all pairs are seen. It is biased before
    that, toward functions of low order. Shrunken parity regressions: Fumagalli et al.
    (OddSHAP); Gaussian processes on sets: Krawtchouk polynomials (MacWilliams and Sloane 1977).
    """

    g3: float = 1.0
    """Prior variance of all terms of three features together, where linear ones have 100."""
    g5: float = 0.3
    """Prior variance of all terms of five features together."""
    lam: float = 0.05
    """Prior variance of what else a pair of coalitions is worth."""

    has_standard_error = True
    most_evaluations = 12_002
    """The matrix of 6000 pairs takes 0.3 GB, and seconds to invert."""

    def __post_init__(self) -> None:
        numeric.check_finite("g3", self.g3)
        numeric.check_finite("g5", self.g5)
        numeric.check_finite("lam", self.lam, 1e-6)

    def least(self, n_features: int) -> int:
        """Return the evaluations of two pairs, of which one can be held out, and of the ends."""
        return min(6, 1 << n_features)

    def default(self, n_features: int) -> int:
        """Return 20 evaluations a feature, or those of all coalitions, or all it can do."""
        return min(20 * n_features, 1 << n_features, self.most_evaluations)

    def used(self, n_features: int, n_evaluations: int) -> int:
        """Return what is left when an odd one is dropped, and those beyond all coalitions."""
        return staged.used(_OPTIONS, n_features, n_evaluations)

    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return posterior means, posterior errors and the residual of pairs held out."""
        n_features = game.n_features
        drawn = design.drawn(n_features, staged.coalitions(_OPTIONS, n_evaluations), seed, _OPTIONS)
        prior = odd_process.Prior(n_features, self.g3, self.g5, self.lam)
        solved = partial(
            odd_process.solved, drawn, prior, device=game.full.device, is_random=game.is_random
        )
        first = staged.coalitions(_OPTIONS, max(4 * n_features, self.least(n_features)))
        return staged.estimate(game, drawn, solved, first, tolerance)
