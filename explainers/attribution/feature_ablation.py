"""What the output loses when a feature is switched off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers import numeric
from explainers.catalogue import register
from explainers.perturbing.ablated import ablated
from explainers.perturbing.method import Perturbation

if TYPE_CHECKING:
    from explainers.base import Explained
    from explainers.targets import Target
    from explainers.trace import Trace


@register("feature_ablation")
@dataclass(frozen=True)
class FeatureAblation(Perturbation):
    """Output at the sample minus output without the feature, ``f(x) - f(x without i)``.

    Zeiler and Fergus 2014, arXiv:1311.2901; Captum's FeatureAblation. With a `background`, the
    feature takes the values of `n_samples` other samples, one after the other, and the mean over
    them is subtracted; the array ``standard_error``, shaped like the map, is that of the mean (NaN
    for one draw). The array ``n_evaluations``, ``(batch,)``, counts forward passes.
    """

    n_samples: int = 8
    """Draws from the background for each feature; without a background one pass is exact."""

    stochastic = True

    def __post_init__(self) -> None:
        numeric.check_whole("n_samples", self.n_samples)

    def n_passes(self, n_features: int) -> float:
        """Return one for each feature and draw, and that of the sample."""
        return 1 + n_features * self._n_draws

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map and ``n_evaluations``; with a background its ``standard_error`` too."""
        found = ((game, ablated(game, self._n_draws)) for game in self.games(trace, target))
        return self.explained(trace, found)

    @property
    def _n_draws(self) -> int:
        return 1 if self.background is None else self.n_samples
