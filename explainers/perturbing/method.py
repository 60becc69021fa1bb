"""What all attributions have in common that switch features off and look at the output."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch

from explainers import backgrounds, baselines, reference
from explainers.base import Attribution, Cost, Explained
from explainers.cut import Cut, ends_inside
from explainers.features import FeatureSpec, check, resolve
from explainers.perturbing.fills import ASKED, Drawn, Fixed
from explainers.perturbing.game import Space, games
from explainers.reading.user_model import normalised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from explainers.features import Partition
    from explainers.network import Network
    from explainers.perturbing.estimate import Estimate
    from explainers.perturbing.fills import Fill
    from explainers.perturbing.game import Game
    from explainers.targets import Target
    from explainers.trace import Trace


_COUNTS = ("n_evaluations", "n_samples")
_FEW = (4, 8, 16)
"""Evaluations that are tried: twice, and four times, as many as features, and less than that."""


@dataclass(frozen=True)
class Perturbation(Attribution):
    """Features are switched off, alone or in coalitions, and the output is looked at.

    What is explained is that of the sample itself: a predicted class stays the one that is
    predicted for the sample, whatever its features are replaced by.
    """

    features: FeatureSpec = None
    """What is switched off together: ``{grid: 7}``, ``{patches: 16}``, ``pixels``, ``tokens``,
    ``{slic: {n_segments: 50}}``; None for every value (every token) by itself."""
    baseline: baselines.Baseline = None
    """What absent features are replaced by: None (zero), a number, one a channel; `min`, `max` or
    `mean` of the sample itself; `data_mean`; `{blur: sigma}` or `{noise: stdev}`; in the library
    also a tensor. See `baselines.resolve`."""
    background: backgrounds.Background = None
    """Samples ``(n, ...)`` whose values absent features take instead, drawn for each sample; in a
    run file the name of an entry with the scan `background`."""
    statistics: baselines.Statistics = None
    """Result of the scan `moments`; what the baseline ``data_mean`` is taken from."""
    output: Space = "logit"
    """Whether outputs are explained as they are, or as probabilities."""

    needs: ClassVar[Mapping[str, str]] = {"background": "background", "statistics": "moments"}

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return a background where one is named, statistics where the baseline is their mean.

        Raises
        ------
        ValueError
            If a baseline is given beside a background.
        """
        is_field = any(each.name == "background" and each.init for each in fields(cls))
        if parameters.get("background") is None or not is_field:
            return baselines.needs_of(parameters)
        _refuse_both(cls.name, parameters.get("baseline"))
        return {"background": "background"}

    @property
    def only_replaces(self) -> bool:
        """True: absent features are filled in, and outputs looked at."""
        return True

    @property
    def cost(self) -> Cost:
        """Forward passes alone; how many depends on the number of features."""
        return Cost(forward=math.nan)

    def cost_on(self, network: Network) -> Cost:
        """Return the forward passes that samples of this network take."""
        n_features = self.n_features(network)
        return self.cost if n_features is None else Cost(forward=self.n_passes(n_features))

    def n_passes(self, n_features: int) -> float:
        """Return the forward passes of a sample with so many features, that of its own included."""
        return self.cost.forward

    def check(self, network: Network) -> None:
        """Refuse features, budgets, baselines and backgrounds that do not fit the inputs.

        Raises
        ------
        ValueError
            If they do not, or probabilities are asked for where there are none.
        """
        n_features = self.n_features(network)
        if n_features is not None:
            self.check_features(n_features)
        self._check_fill(network)
        self._check_output(network)

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield few features, with several budgets: what is least depends on the method."""
        named = [each.name for each in fields(self) if each.init]
        counted = [name for name in _COUNTS if name in named]
        # of two that exclude each other, the one that is used
        given = [name for name in counted if getattr(self, name) is not None] or counted[:1]
        budgets = [dict.fromkeys(given, count) for count in _FEW] if given else []
        if "features" in named:
            few = _few_features(network)
            yield from ({**few, **budget} for budget in [*budgets, {}])
        yield from budgets

    def check_rows(self, trace: Trace) -> None:
        """Refuse the fewest and the most features of a batch, where they depend on the sample."""
        if self.n_features(trace.network) is None:
            counts = self.partition(trace).counts
            for n_features in (min(counts), max(counts)):
                self.check_features(n_features)

    def check_features(self, n_features: int) -> None:
        """Refuse so many features, or the budget for them; most methods take any number."""

    def _check_fill(self, network: Network) -> None:
        reference.check(self.baseline, network, self.statistics)
        if self.background is None:
            return
        _refuse_both(self.name, self.baseline)
        backgrounds.check(self.background, network, f"{self.name} {ASKED}")

    def _check_output(self, network: Network) -> None:
        if self.output not in get_args(Space):
            raise ValueError(f"got output={self.output!r}, expected 'logit' or 'probability'")
        if self.output == "logit":
            return
        if ends_inside(network):
            raise ValueError(
                f"{self.name} got output='probability' and a target in a layer, whose units are "
                "no logits of classes; take output='logit', which means the unit itself"
            )
        root = network.root
        if normalised(root(root.example)):
            raise ValueError(
                f"{self.name} got output='probability', but the network's outputs are normalised "
                "already, by a softmax that could not be taken off; take output='logit', which "
                "explains them as they are"
            )

    def n_features(self, network: Network) -> int | None:
        """Return the features of one sample; None where they depend on the sample."""
        return check(self.features, network, layer=self.source_layer)

    def partition(self, trace: Trace) -> Partition:
        """Return the features of a batch."""
        return resolve(self.features, trace, layer=self.source_layer)

    def fill(self, trace: Trace) -> Fill:
        """Return what stands for absent features."""
        if self.background is not None:
            return Drawn(self.background, trace)
        return Fixed(trace.baseline(baselines.settled(self.baseline, self.statistics)))

    def games(self, trace: Trace, target: Target) -> Iterator[Game]:
        """Return the games of a batch, one for each number of features."""
        return games(trace, target, self.partition(trace), self.fill(trace), space=self.output)

    def explained(self, trace: Trace, found: Iterable[tuple[Game, Estimate]]) -> Explained:
        """Return maps of what was estimated, with the arrays beside them.

        ``standard_error`` is shaped like the map and spread like it; ``residual`` and
        ``n_evaluations`` are ``(batch,)``. Numbers are of the map's type, whatever an estimator
        computes in.
        """
        relevance = torch.zeros_like(trace.inputs)
        arrays: dict[str, Tensor] = {}
        for game, estimate in found:
            relevance[game.rows] = game.partition.map(estimate.values.to(relevance))
            for name, values in _beside(game, estimate):
                values = values.to(relevance) if values.is_floating_point() else values
                if name not in arrays:
                    gap = math.nan if values.is_floating_point() else 0
                    arrays[name] = values.new_full((trace.n_rows, *values.shape[1:]), gap)
                arrays[name][game.rows] = values
        return Explained(relevance, arrays)


def _few_features(network: Network) -> dict[str, Any]:
    """Return features of which there are four, as far as the inputs are known to have them."""
    shape = tuple(network.input_shape)
    is_packed = isinstance(network, Cut) and len(network.points) > 1
    n_values = math.prod(shape)
    if is_packed or n_values < 4:
        return {}
    return {"features": {"masks": (torch.arange(n_values) * 4 // n_values).view(shape)}}


def _refuse_both(name: str, baseline: Any) -> None:
    if baseline is not None:
        raise ValueError(
            f"{name} got a baseline and a background, expected one of them: absent features are "
            "replaced by the one or by draws from the other; leave one out"
        )


def _beside(game: Game, estimate: Estimate) -> Iterator[tuple[str, Tensor]]:
    yield "n_evaluations", estimate.n_evaluations
    if estimate.standard_error is not None:
        yield "standard_error", game.partition.map(estimate.standard_error)
    if estimate.residual is not None:
        yield "residual", estimate.residual
