"""Methods that take features out one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers import numeric
from explainers.perturbing.ablated import ablated
from explainers.perturbing.method import Perturbation

if TYPE_CHECKING:
    from explainers.base import Explained
    from explainers.targets import Target
    from explainers.trace import Trace

N_DRAWS = 8
"""Where nobody says how many."""


@dataclass(frozen=True)
class Ablation(Perturbation):
    """Output at the sample minus its mean over draws of what a feature is replaced by."""

    n_samples: int | None = None
    """Other samples whose values each feature takes, one after the other: 8, unless
    `n_evaluations` is given. Of what is not drawn, one pass a feature is exact."""
    n_evaluations: int | None = None
    """Forward passes of a sample, its own included, in place of `n_samples`: whole draws are
    taken, of one pass for each feature."""
    tolerance: float | None = None
    """If set, a sample is done when the root mean square of its standard errors is at most this
    times that of its values; looked at after 8 draws and each further quarter."""

    stochastic = True

    def __post_init__(self) -> None:
        for name in ("n_samples", "n_evaluations"):
            if getattr(self, name) is not None:
                numeric.check_whole(name, getattr(self, name))
        if self.tolerance is not None:
            numeric.check_finite("tolerance", self.tolerance)
        if self.n_samples is not None and self.n_evaluations is not None:
            raise ValueError(
                f"got n_samples={self.n_samples} and n_evaluations={self.n_evaluations}, expected "
                "one of them: draws for each feature, or forward passes; leave the other out"
            )

    @property
    def is_drawn(self) -> bool:
        """Whether what a feature is replaced by is random."""
        return self.background is not None

    def check_features(self, n_features: int) -> None:
        """Refuse a budget that is not enough for one draw."""
        if self.n_evaluations is not None and self.n_evaluations <= n_features:
            raise ValueError(
                f"got n_evaluations={self.n_evaluations} for {n_features} features, expected at "
                f"least {1 + n_features}: one for each, and that of the sample; give more, or "
                "coarser features"
            )

    def n_passes(self, n_features: int) -> float:
        """Return one for each feature and draw, and that of the sample."""
        return 1 + n_features * self._n_draws(n_features)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``n_evaluations`` and, of draws, their ``standard_error``."""
        found = (
            (game, ablated(game, self._n_draws(game.n_features), self.tolerance))
            for game in self.games(trace, target)
        )
        return self.explained(trace, found)

    def _n_draws(self, n_features: int) -> int:
        self.check_features(n_features)
        if not self.is_drawn:
            return 1
        if self.n_evaluations is not None:
            return (self.n_evaluations - 1) // n_features
        return N_DRAWS if self.n_samples is None else self.n_samples
