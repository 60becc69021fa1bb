"""What the output loses when a feature is switched off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.base import Cost, Explained
from explainers.catalogue import register
from explainers.perturbing.estimate import Estimate
from explainers.perturbing.method import Perturbation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers.network import Network
    from explainers.perturbing.game import Game
    from explainers.targets import Target
    from explainers.trace import Trace


@register("feature_ablation")
@dataclass(frozen=True)
class FeatureAblation(Perturbation):
    """Output at the sample minus output without the feature, ``f(x) - f(x without i)``.

    Zeiler and Fergus 2014, arXiv:1311.2901; Captum's FeatureAblation.
    """

    @property
    def cost(self) -> Cost:
        """A forward for each feature, and that of the sample."""
        return Cost(forward=math.nan)

    def cost_on(self, network: Network) -> Cost:
        """Return a forward for each feature, and that of the sample."""
        n_features = self.n_features(network)
        return Cost(forward=math.nan if n_features is None else 1 + n_features)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map and ``n_evaluations``, ``(batch,)``."""
        return self.explained(trace, self._estimates(trace, target))

    def _estimates(self, trace: Trace, target: Target) -> Iterator[tuple[Game, Estimate]]:
        for game in self.games(trace, target):
            n_features = game.n_features
            without = ~torch.eye(n_features, dtype=torch.bool, device=trace.inputs.device)
            values = game.full[:, None] - game.values(without)
            yield game, Estimate(values, torch.full_like(game.rows, 1 + n_features))
