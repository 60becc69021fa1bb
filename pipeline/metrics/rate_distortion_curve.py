"""How far the output strays when all but the most relevant of an input is noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers.sampling import counted
from pipeline.metrics import removal, sampled
from pipeline.metrics.metric import Case, Curve, Direction, Metric, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

_DRAWN = ("changes", "hits")
_OF_CONTROL = ("distortion", "accuracy", "auc", "accuracy_auc")


@register("rate_distortion_curve")
@dataclass(frozen=True)
class RateDistortionCurve(Metric):
    r"""Distortion of the output while components become noise, the least relevant first.

    The relevance-ordering test of Macdonald et al. 2019 (arXiv:1905.11092). At step k the
    components of least relevance are replaced by noise, uniform between the least and the greatest
    value of the sample, drawn afresh at every step. With the probability p of what was explained,

    .. math:: D_k = \frac{1}{N} \sum_{n=1}^N (p(y_{kn}) - p(x))^2

    over N draws. ``distortion``, ``(batch, steps + 1)``, goes from nothing randomised, 0, to
    everything; ``auc`` is its trapezoid area over the share randomised, from 0 to 1. ``accuracy``
    is the share of draws in which the network finds the sample's label, NaN where there is none.
    ``distortion_error``, ``accuracy_error`` and ``auc_error`` are Monte-Carlo standard errors of
    one sample's scores, of the sample standard deviation of the draws (NaN of a single draw); how
    much samples differ is what aggregates say.

    The control is the same curve for components in random order: ``random_distortion``,
    ``random_accuracy`` and ``random_auc``; ``relative_auc`` is ``auc / random_auc``, below 1 for
    maps that are better than chance. It is computed once for all explainers, who share noise,
    ties and the last step too, so differences between them are paired. Noise follows from seed,
    sample, step and draw by number and is made again for each explainer: the metric takes
    ``(steps - 1) * n_draws`` forward passes for each map, and ``steps * n_draws`` for the control.
    """

    n_draws: int = 16
    """Draws of noise per step. The original has 512 for digits, and 128 and 16 for photographs."""
    n_steps: int | None = None
    """Steps from nothing to everything; 32 by default, never more than there are components."""
    features_in_step: int | None = None
    """Components per step, instead of `n_steps`."""
    components: Literal["values", "pixels"] = "values"
    """What is randomised: single values, so that the channels of a pixel have places of their own,
    or pixels of images with all their channels, by the sum of their relevance."""
    ties: Literal["random", "position"] = "random"
    """Order of components that are equally relevant: the control's, or that in the input."""
    output_space: Literal["probability", "logit"] = "probability"
    """What is measured."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "auc"
    returned: ClassVar[str] = "distortion"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})
    shares: ClassVar[frozenset[str]] = frozenset({"accuracy", "random_accuracy"})
    directions: ClassVar[Mapping[str, Direction]] = {"relative_auc": "lower"}

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        removal.check_steps(self.n_steps, self.features_in_step)
        if self.n_draws < 1:
            raise ValueError(f"got n_draws {self.n_draws!r}, expected at least 1")

    @property
    def direction(self) -> Direction:
        """Little distortion is good."""
        return "lower"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return both curves over the percentage of components that are left."""
        n_features = removal.count(shape, by_pixel=self._by_pixel)
        left = tuple((100.0 * (1.0 - self._shares(n_features))).tolist())
        change = f"mean squared change of the {self.output_space}"
        return (
            _curve("distortion", left, change, "auc", "lower", math.inf),
            _curve("accuracy", left, "accuracy", "accuracy_auc", "higher", 1.0),
        )

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse probabilities of one output."""
        if network is not None:
            removal.check_space(network.n_outputs, self.output_space)

    def prepare(self, case: Case) -> Case:
        """Share seeds of noise, the order of ties, and the control."""
        trace = case.network_trace()
        self._check(trace)
        weights = trace.cotangent(case.target)
        features = removal.features(trace.inputs, by_pixel=self._by_pixel)
        ties = counted.words(sampled.seeds(trace, "ties"), features.shape[2]).argsort(dim=1)
        labels = sampled.labels(trace)
        case = case.sharing(
            weights=weights,
            clean=removal.selected(trace.output, weights, self.output_space),
            labels=labels,
            hit=sampled.hits(trace.output, labels),
            noise=sampled.seeds(trace, "noise"),
            ties=ties,
        )
        draws = self._randomised(case, removal.places(ties), self._counts(features.shape[2]))
        control = self._columns(case, *draws)
        kept = {f"random_{name}": control[name] for name in _OF_CONTROL}
        last = {f"last_{name}": each[:, -1:] for name, each in zip(_DRAWN, draws, strict=True)}
        return case.sharing(**kept, **last)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return both curves with their errors and areas, and those of the control."""
        trace, shared = case.network_trace(), case.shared
        per_feature = removal.relevance_of_features(
            relevance, trace.inputs, by_pixel=self._by_pixel
        )
        ties = shared["ties"] if self.ties == "random" else None
        ranks = removal.ranks(per_feature, descending=False, ties=ties)
        inner = self._randomised(case, ranks, self._counts(ranks.shape[1])[:-1])
        columns = self._columns(
            case,
            *(
                torch.cat([each, shared[f"last_{name}"]], dim=1)
                for name, each in zip(_DRAWN, inner, strict=True)
            ),
        )
        control = {f"random_{name}": shared[f"random_{name}"] for name in _OF_CONTROL}
        chance = control["random_auc"]
        columns["relative_auc"] = columns["auc"] / chance.where(chance > 0, torch.nan)
        finite = per_feature.isfinite().all(dim=1)
        return {
            name: column.where(finite if column.ndim == 1 else finite[:, None], torch.nan)
            for name, column in columns.items()
        } | control

    def _randomised(self, case: Case, ranks: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared change and hit of every draw, ``(batch, steps, draws)`` each."""
        trace, shared = case.network_trace(), case.shared
        features = removal.features(trace.inputs, by_pixel=self._by_pixel)
        low, high = features.flatten(1).aminmax(dim=1, keepdim=True)
        counts = counts.to(ranks.device)
        shape = (len(features), len(counts), self.n_draws)
        chunk, n_rows = removal.rows_at_once(trace.inputs), math.prod(shape)
        changes, hits = [shared["clean"].new_empty(0)], [shared["hit"].new_empty(0)]
        for start in range(0, n_rows, chunk):
            row = torch.arange(start, min(start + chunk, n_rows), device=ranks.device)
            sample, step, draw = row // (shape[1] * shape[2]), row // shape[2] % shape[1], row
            seeds = counted.word(counted.word(shared["noise"][sample], step), draw % shape[2])
            noise = counted.uniform(seeds, features[0].numel(), features.dtype)
            noise = noise.mul_((high - low)[sample]).add_(low[sample])
            gone = ranks[sample] < counts[step][:, None]  # (rows, features)
            kept = features[sample]  # (rows, channels, features)
            randomised = torch.where(gone[:, None], noise.view_as(kept), kept)
            with torch.no_grad():
                output = trace.network(randomised.view(-1, *trace.inputs.shape[1:]))
            values = removal.selected(output, shared["weights"][sample], self.output_space)
            changes.append((values - shared["clean"][sample]).square())
            hits.append(sampled.hits(output, shared["labels"][sample]))
        return torch.cat(changes).view(shape), torch.cat(hits).view(shape)

    def _columns(self, case: Case, changes: Tensor, hits: Tensor) -> dict[str, Tensor]:
        """Return curves, errors and areas of what `_randomised` found at every step."""
        share = self._shares(case.shared["ties"].shape[1]).to(changes)
        width = torch.zeros_like(share)  # of each step in the trapezoid area
        width[1:] += share.diff() / 2
        width[:-1] += share.diff() / 2
        hit = case.shared["hit"][:, None]
        distortion, distortion_error = _moments(changes, torch.zeros_like(hit))
        accuracy, accuracy_error = _moments(hits, hit)
        return {
            "distortion": distortion,
            "distortion_error": distortion_error,
            "accuracy": accuracy,
            "accuracy_error": accuracy_error,
            "auc": (distortion * width).sum(dim=1),
            "auc_error": (distortion_error * width).square().sum(dim=1).sqrt(),
            "accuracy_auc": (accuracy * width).sum(dim=1),
        }

    def _check(self, trace: Trace) -> None:
        if not trace.inputs.is_floating_point():
            raise TypeError(
                f"got inputs of {trace.inputs.dtype}, expected floating-point numbers: "
                f"{self.name} replaces them by noise"
            )
        removal.check_space(trace.output.shape[1], self.output_space)

    @property
    def _by_pixel(self) -> bool:
        return self.components == "pixels"

    def _counts(self, n_features: int) -> Tensor:
        return removal.counts(n_features, self.n_steps, self.features_in_step)

    def _shares(self, n_features: int) -> Tensor:
        """Return the share of components that is randomised, from 0 to 1, ``(steps + 1,)``."""
        counts = self._counts(n_features).double()
        return torch.cat([counts.new_zeros(1), counts]) / n_features


def _curve(
    column: str,
    x: tuple[float, ...],
    y_label: str,
    area: str,
    direction: Direction,
    most: float,
) -> Curve:
    return Curve(
        column,
        x,
        "non-randomised components, %",
        y_label,
        area,
        direction,
        bounds=(0.0, most),
        error=f"{column}_error",
        control=f"random_{column}",
        control_area=f"random_{area}",
    )


def _moments(draws: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and its standard error over the draws, behind a step that is certain.

    Parameters
    ----------
    draws
        ``(batch, steps, draws)``.
    first
        Value of the step before them, ``(batch, 1)``.
    """
    n_draws = draws.shape[2]
    mean = draws.mean(dim=2)
    if n_draws > 1:
        error = draws.std(dim=2) / math.sqrt(n_draws)
    else:
        error = torch.full_like(mean, torch.nan)
    return torch.cat([first, mean], dim=1), torch.cat([first * 0, error], dim=1)
