"""What all attributions have in common that switch features off and look at the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from explainers import backgrounds, baselines, reference
from explainers.base import Attribution, Explained
from explainers.features import FeatureSpec, check, resolve
from explainers.perturbing.fills import Fixed
from explainers.perturbing.game import Space, games

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from explainers.network import Network
    from explainers.perturbing.estimate import Estimate
    from explainers.perturbing.fills import Fill
    from explainers.perturbing.game import Game
    from explainers.targets import Target
    from explainers.trace import Trace


@dataclass(frozen=True)
class Perturbation(Attribution):
    """Features are switched off, alone or in coalitions, and the output is looked at."""

    features: FeatureSpec = None
    """What is switched off together: ``{grid: 7}``, ``{patches: 16}``, ``pixels``, ``tokens``,
    ``{slic: {n_segments: 50}}``; None for every value (every token) by itself."""
    baseline: baselines.Baseline = None
    """What absent features are replaced by: see `baselines`."""
    background: backgrounds.Background = None
    """Samples ``(n, ...)`` whose values absent features take instead, drawn for each sample."""
    output: Space = "logit"
    """Whether outputs are explained as they are, or as probabilities."""

    def check(self, network: Network) -> None:
        """Refuse features and baselines that do not fit the inputs."""
        check(self.features, network)
        reference.check(self.baseline, network)

    def n_features(self, network: Network) -> int | None:
        """Return the features of one sample; None where they depend on the sample."""
        return check(self.features, network)

    def games(self, trace: Trace, target: Target) -> Iterator[Game]:
        """Return the games of a batch, one for each number of features."""
        partition = resolve(self.features, trace)
        return games(trace, target, partition, self.fill(trace), space=self.output)

    def fill(self, trace: Trace) -> Fill:
        """Return what stands for absent features."""
        return Fixed(trace.baseline(self.baseline))

    def explained(self, trace: Trace, found: Iterable[tuple[Game, Estimate]]) -> Explained:
        """Return maps of what was estimated, with the arrays beside them."""
        relevance = torch.zeros_like(trace.inputs)
        arrays: dict[str, Tensor] = {}
        for each, estimate in found:
            relevance[each.rows] = each.partition.map(estimate.values.to(relevance))
            for name, values in _beside(each, estimate):
                whole = arrays.setdefault(name, values.new_zeros(trace.n_rows, *values.shape[1:]))
                whole[each.rows] = values
        return Explained(relevance, arrays)


def _beside(each: Game, estimate: Estimate) -> Iterator[tuple[str, Any]]:
    yield "n_evaluations", estimate.n_evaluations
    if estimate.standard_error is not None:
        yield "standard_error", each.partition.map(estimate.standard_error)
    if estimate.residual is not None:
        yield "residual", estimate.residual
