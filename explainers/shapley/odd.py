"""Shapley values by a Gaussian process on odd functions of coalitions that all rows share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from explainers import numeric
from explainers.shapley import design, odd_process, staged
from explainers.shapley.estimator import Estimator, register
from explainers.shapley.neighbours import places

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
    that, toward functions of low order. Where absent features are drawn, each pair is seen with one
    draw, and all pairs do not suffice; standard errors say so.

    Where features are cells of a picture, terms of neighbours vary more, as they do in networks
    that look at pictures piece by piece: with LeNet and 16 features that took two thirds off the
    squared error at 30 evaluations a feature; with a network that has no convolutions, at least
    some from there on, but added as much at four. Nothing else about features is taken into
    account, so that in all other games they are exchangeable.
    """

    g3: float = 1.0
    """Prior variance of all terms of three features together, where linear ones have 100."""
    g5: float = 0.3
    """Prior variance of all terms of five features together."""
    lam: float = 0.05
    """Prior variance of what else a pair of coalitions is worth."""
    near: float = 5.0
    """Prior variance, on top, of all terms of three neighbours together, and a tenth of it of
    all of five, where the game is one of cells of a picture; 0 to treat all features alike."""

    has_standard_error = True
    most_features = 512
    """Of more, cut into a square, the smallest groups of neighbours are more than can be kept; of
    a thousand, weights are more than a float can hold."""
    most_evaluations = 12_002
    """The matrix of 6000 pairs takes 0.3 GB, and seconds to invert."""

    def __post_init__(self) -> None:
        numeric.check_finite("g3", self.g3)
        numeric.check_finite("g5", self.g5)
        numeric.check_finite("lam", self.lam, 1e-6)
        numeric.check_finite("near", self.near)

    def least(self, n_features: int) -> int:
        """Return the evaluations of two pairs, of which one can be held out, and of the ends."""
        return min(6, 1 << n_features)

    def default(self, n_features: int) -> int:
        """Return 20 evaluations a feature, or those of all coalitions, or all it can do."""
        return min(20 * n_features, 1 << n_features, self.most_evaluations)

    def used(self, n_features: int, n_evaluations: int, *, is_random: bool = False) -> int:
        """Return what is left when an odd one is dropped, and those beyond all coalitions."""
        return staged.used(_OPTIONS, n_features, n_evaluations)

    def check(
        self, n_features: int, n_evaluations: int | None, tolerance: float | None = None
    ) -> None:
        """Refuse too many features, or a budget that does not do.

        There are never more coalitions than ``2^n``.
        """
        if n_evaluations is not None:
            n_evaluations = min(n_evaluations, 1 << n_features)
        super().check(n_features, n_evaluations, tolerance)

    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return posterior means, posterior errors and the residual of pairs held out."""
        n_features = game.n_features
        drawn = design.drawn(n_features, staged.coalitions(_OPTIONS, n_evaluations), seed, _OPTIONS)
        where = places(getattr(game, "partition", None)) if self.near else None
        prior = odd_process.Prior(n_features, self.g3, self.g5, self.lam, self.near, where)
        solved = partial(
            odd_process.solved, drawn, prior, device=game.full.device, is_random=game.is_random
        )
        first = staged.coalitions(_OPTIONS, max(4 * n_features, self.least(n_features)))
        return staged.estimate(game, drawn, solved, first, tolerance)
