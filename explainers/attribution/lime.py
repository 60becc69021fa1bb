"""Coefficients of a sparse linear model of the output, fitted around each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch

from explainers import numeric
from explainers.base import Cost, Explained
from explainers.catalogue import register
from explainers.inputs.opaque import holds_tokens
from explainers.perturbing.estimate import Estimate
from explainers.perturbing.method import Perturbation
from explainers.perturbing.stopping import is_precise
from explainers.surrogates import design, distance
from explainers.surrogates.distance import Distance
from explainers.surrogates.lasso import lasso, left_out
from explainers.surrogates.regression import Regression
from explainers.surrogates.ridge import ridge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from torch import Tensor

    from explainers.network import Network
    from explainers.perturbing.game import Game
    from explainers.targets import Target
    from explainers.trace import Trace

Surrogate = Literal["lasso", "ridge"]

LEAST_COALITIONS = 2
"""Penalised models have one solution for any number; of one value there is nothing to explain."""

LEAST_STEP = 50
"""Coalitions between two looks at the standard errors."""


@register("lime")
@dataclass(frozen=True)
class Lime(Perturbation):
    """Linear model of the output in which features are there, weighted by nearness to the sample.

    Ribeiro, Singh and Guestrin 2016, arXiv:1602.04938. Features are there or not by the toss of a
    coin, in the same coalitions for all samples of a run; the model's coefficients are the
    relevance. Arrays beside the map, ``(batch,)``: ``residual`` is the root of the weighted mean
    squared error in predicting each evaluation by a model fitted without it (exact for ridge; for
    lasso with the same features in the model, and NaN where there are as many of them as
    evaluations), in units of the output; ``n_evaluations`` counts the forward passes that were
    used. ``standard_error``, shaped like the map, is what coefficients owe to the coalitions that
    were drawn, by the jackknife: beside ridge always, beside lasso, which has to be fitted ten
    times more for it, only with a `tolerance`.
    """

    n_evaluations: int = 51
    """Forward passes of a sample: one as it is, and one for each other coalition; 51 are Captum's
    50 ``n_samples``."""
    surrogate: Surrogate = "lasso"
    """The linear model: penalised by the sum of absolute coefficients, or that of squared ones."""
    alpha: float = 0.01
    """Strength of the penalty, as scikit-learn has it: beside half the weighted mean squared error
    for lasso, beside the weighted sum of squared errors for ridge."""
    distance: Distance = "cosine"
    """Between the sample and what a coalition makes of it, ``cosine`` or ``euclidean``; or between
    the coalition and all features, ``coalition_cosine`` or ``hamming`` (the share of those absent).
    The first two make no sense with a `background`."""
    kernel_width: float = 1.0
    """Coalitions at distance d weigh ``exp(-d^2 / (2 width^2))``."""
    fit_intercept: bool = True
    """Whether the model has a constant."""
    include_sample: bool = False
    """Whether the first coalition is that of all features, the sample itself."""
    tolerance: float | None = None
    """Stop for a sample when the root mean square of its standard errors is at most this times the
    root mean square of its coefficients; looked at after every 50 coalitions, or as many as there
    are features. With 0 the budget is used up."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "captum": {
            "n_evaluations": 51,
            "surrogate": "lasso",
            "alpha": 0.01,
            "distance": "cosine",
            "kernel_width": 1.0,
        },
        "lime": {
            "n_evaluations": 1000,
            "surrogate": "ridge",
            "alpha": 1.0,
            "distance": "coalition_cosine",
            "kernel_width": 0.25,
            "include_sample": True,
            "output": "probability",
        },
    }
    stochastic = True

    def __post_init__(self) -> None:
        numeric.check_whole("n_evaluations", self.n_evaluations, self._n_passes(LEAST_COALITIONS))
        for name in ("alpha", "kernel_width"):
            numeric.check_finite(name, getattr(self, name))
            if not getattr(self, name):
                raise ValueError(f"got {name}=0, expected a positive number")
        if self.tolerance is not None:
            numeric.check_finite("tolerance", self.tolerance)
        for name, known in (("surrogate", get_args(Surrogate)), ("distance", get_args(Distance))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"got {name}={getattr(self, name)!r}, expected one of {', '.join(known)}"
                )

    @property
    def cost(self) -> Cost:
        """A forward for each coalition, and that of the sample."""
        return Cost(forward=self.n_evaluations)

    @property
    def n_coalitions(self) -> int:
        """That the model is fitted to, unless a sample stops before."""
        return self.n_evaluations - self._n_passes(0)

    def _n_passes(self, n_coalitions: int) -> int:
        """Return the passes that coalitions take, with that of the sample."""
        return n_coalitions + (0 if self.include_sample else 1)

    def check(self, network: Network) -> None:
        """Refuse what cannot be perturbed, and distances to inputs that are drawn."""
        super().check(network)
        if self.background is not None and distance.is_between_inputs(self.distance):
            raise ValueError(
                f"lime got a background and distance={self.distance!r} between inputs, which are "
                "random then; set distance to coalition_cosine or hamming, or give a baseline"
            )
        if holds_tokens(network) and distance.is_between_inputs(self.distance):
            raise ValueError(
                f"lime got distance={self.distance!r} between tokens of a model that is no "
                "program, whose numbers have no distance; set distance to coalition_cosine or "
                "hamming"
            )

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return whether there are more coefficients than coalitions to fit them to."""
        n_features = self.n_features(network)
        if n_features is None or n_features < self.n_coalitions:
            return ()
        return (
            f"lime fits {n_features} features to {self.n_coalitions} coalitions: what is not "
            "determined by them is decided by the penalty",
        )

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``residual``, ``n_evaluations`` and, where made, ``standard_error``."""
        return self.explained(trace, self._estimates(trace, target))

    def _estimates(self, trace: Trace, target: Target) -> Iterator[tuple[Game, Estimate]]:
        seed = trace.shared_seed("coalitions")
        for game in self.games(trace, target):
            drawn = design.coalitions(seed, self.n_coalitions, game.n_features)
            coalitions = drawn.to(trace.inputs.device)
            if self.include_sample:
                coalitions = coalitions.clone()
                coalitions[0] = True
            yield game, self._estimate(game, coalitions, self._weights(game, coalitions))

    def _weights(self, game: Game, coalitions: Tensor) -> Tensor:
        """Return the weights of coalitions, ``(1 | rows, coalitions)``."""
        if distance.is_between_inputs(self.distance):
            distances = distance.of_inputs(
                game.valuation.inputs,
                game.fill.at(game.rows, torch.zeros(1, dtype=torch.int64))[0],
                game.partition,
                coalitions,
                self.distance,
            )
        else:
            distances = distance.of_coalitions(coalitions, self.distance)
        # lasso's penalty is beside a mean, so that the scale of weights makes no difference
        kernel = distance.relative if self.surrogate == "lasso" else distance.exponential
        return kernel(distances, self.kernel_width)

    def _estimate(self, game: Game, coalitions: Tensor, weights: Tensor) -> Estimate:
        n_all, n_features = coalitions.shape
        step = n_all if self.tolerance is None else max(LEAST_STEP, n_features)
        here = torch.arange(game.n_rows, device=weights.device)
        values = weights.new_zeros(game.n_rows, n_all)
        found: list[tuple[Tensor, Estimate]] = []
        for first in range(0, n_all, step):
            last = min(first + step, n_all)
            values[here, first:last] = self._values(game, coalitions, first, last, here)
            own = weights[:, :last] if len(weights) == 1 else weights[here, :last]
            there = coalitions[:last].to(values.dtype)
            problem = Regression(there, values[here, :last], own, self.fit_intercept)
            fitted = self._fitted(problem)
            found.append((here, fitted))
            here = here[~is_precise(fitted.values, fitted.standard_error, self.tolerance)]
            if last < n_all and not len(here):
                break
        return _newest(found)

    def _values(
        self, game: Game, coalitions: Tensor, first: int, last: int, rows: Tensor
    ) -> Tensor:
        """Return the values of some coalitions, ``(rows, coalitions)``."""
        is_sample = self.include_sample and first == 0
        some = slice(first + is_sample, last)
        asked = None if len(rows) == game.n_rows else rows
        values = game.values(coalitions[some], asked, torch.arange(some.start, last))
        if is_sample:
            values = torch.cat([game.full[rows, None], values], 1)
        return values.double()

    def _fitted(self, problem: Regression) -> Estimate:
        fitted = (ridge if self.surrogate == "ridge" else lasso)(problem, self.alpha)
        error = fitted.standard_error
        if error is None and self.tolerance is not None:
            error = left_out(problem, self.alpha)
        n_rows, n_points = problem.values.shape
        return Estimate(
            fitted.coefficients,
            torch.full((n_rows,), self._n_passes(n_points), device=problem.values.device),
            standard_error=error,
            residual=fitted.residual(problem.shares),
        )


def _newest(found: list[tuple[Tensor, Estimate]]) -> Estimate:
    """Return, for each row, the last estimate that has it; the first has all rows."""

    def whole(name: str) -> Any:
        values = getattr(found[0][1], name)
        for rows, newer in found[1:]:
            values = values.index_copy(0, rows, getattr(newer, name))
        return values

    first = found[0][1]
    return Estimate(
        whole("values"),
        whole("n_evaluations"),
        standard_error=None if first.standard_error is None else whole("standard_error"),
        residual=whole("residual"),
    )
