"""Shapley values of features by KernelSHAP's weighted least squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from explainers import numeric
from explainers.base import Cost, Explained
from explainers.catalogue import register
from explainers.perturbing.method import Perturbation
from explainers.shapley.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from explainers.network import Network
    from explainers.perturbing.estimate import Estimate
    from explainers.perturbing.game import Game
    from explainers.targets import Target
    from explainers.trace import Trace


@register("kernel_shap")
@dataclass(frozen=True)
class KernelShap(Perturbation):
    """Shapley values as the linear model of coalitions that the Shapley kernel weighs.

    ``phi = argmin sum_S w_S (f(x with S) - f(baseline) - sum_{i in S} phi_i)^2`` with ``sum phi =
    f(x) - f(baseline)``, which holds to rounding (Lundberg and Lee 2017, arXiv:1705.07874).
    Coalitions are the same for all samples of a run. By default they come in pairs with their
    complement, as many of each size, none twice; see `explainers.shapley.design`. The same is the
    estimator `kernel` of `shapley_value_sampling`, where `odd` needs fewer evaluations.

    Arrays beside the map: ``standard_error``, shaped like it, is what values owe to the coalitions
    that were drawn; ``residual``, ``(batch,)``, is the root mean square error in predicting a
    coalition (a pair: half of its difference) that is held out, in units of the output;
    ``n_evaluations``, ``(batch,)``, is what was used. With a background, a pair of coalitions sees
    the same row of it, drawn for the sample, and values sum to ``f(x) - mean f(b)``.
    """

    n_evaluations: int | None = None
    """Forward passes per sample at most, those of all and of no features among them; no less than
    ``2 n + 2`` for n features. None for ``20 n``, or all ``2^n`` where they are fewer."""
    paired: bool = True
    """Whether each coalition comes with its complement."""
    stratified: bool = True
    """Whether every size gets as many coalitions, as far as it has them; otherwise sizes are drawn
    by the Shapley kernel."""
    replacement: bool = False
    """Whether a coalition may come several times."""
    tolerance: float | None = None
    """If set, a sample is done when the root mean square of its standard errors is at most this
    times that of its values; the budget is then the most that it takes."""

    stochastic = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "captum": {"paired": False, "stratified": False, "replacement": True},
    }

    def __post_init__(self) -> None:
        if self.n_evaluations is not None:
            numeric.check_whole("n_evaluations", self.n_evaluations, 2)
        if self.tolerance is not None:
            numeric.check_finite("tolerance", self.tolerance)

    @cached_property
    def _estimator(self) -> Kernel:
        return Kernel(self.paired, self.stratified, self.replacement)

    def _budget(self, n_features: int) -> int:
        if self.n_evaluations is not None:
            return self.n_evaluations
        return self._estimator.default(n_features)

    @property
    def cost(self) -> Cost:
        """Forward passes alone; how many depends on the features, unless they are asked for."""
        return Cost(forward=math.nan if self.n_evaluations is None else self.n_evaluations)

    def n_passes(self, n_features: int) -> float:
        """Return what is used of the budget, where no sample is done before."""
        return self._estimator.used(n_features, self._budget(n_features))

    def check(self, network: Network) -> None:
        """Refuse fewer evaluations than determine the values."""
        super().check(network)
        n_features = self.n_features(network)
        if n_features is not None:
            self._estimator.check(n_features, self.n_evaluations, self.tolerance)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``standard_error``, ``residual`` and ``n_evaluations``."""
        return self.explained(trace, self._estimates(trace, target))

    def _estimates(self, trace: Trace, target: Target) -> Iterator[tuple[Game, Estimate]]:
        seed = trace.shared_seed("coalitions")
        for game in self.games(trace, target):
            # where features depend on the sample, nobody has looked at their number before
            self._estimator.check(game.n_features, self.n_evaluations, self.tolerance)
            budget = self._budget(game.n_features)
            yield game, self._estimator.estimate(game, budget, seed, self.tolerance)
