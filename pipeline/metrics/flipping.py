"""How the output follows when features are removed in the order of their relevance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics import removal
from pipeline.metrics.metric import Case, Curve, Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.trace import Trace


@register("pixel_flipping")
@dataclass(frozen=True)
class PixelFlipping(Metric):
    """Output of the target while features are flipped to a baseline (Bach et al. 2015).

    doi:10.1371/journal.pone.0130140. Features are flipped cumulatively in the order of their
    relevance, ties by position. In images, ``(batch, channel, height, width)``, a feature is a
    pixel: its channels flip together, ordered by the sum of their relevance. Elsewhere each
    value is a feature. ``curve`` starts with the unperturbed output and ends with everything
    flipped; ``auc`` is its trapezoid area over the share of features flipped, from 0 to 1.
    """

    n_steps: int | None = None
    """Steps from nothing to everything; 32 by default, never more than there are features."""
    features_in_step: int | None = None
    """Features per step, instead of `n_steps`."""
    order: Literal["morf", "lerf"] = "morf"
    """Most relevant first (a low curve is good) or least relevant first (a high one)."""
    baseline: float | Literal["black", "white", "mean"] = "black"
    """What a flipped feature becomes: a number, or the least, greatest or mean value of its
    channel in the same sample (the whole sample where there are no channels)."""
    output_space: Literal["probability", "logit"] = "probability"
    """What is measured."""
    absolute: bool = False
    """Order by magnitude (summed over channels) instead of by signed relevance."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition. Every channel value is a feature of its own, one
    feature per step by default, black is the least value of the sample, the curve has no
    unperturbed point, and ``auc`` is the trapezoid area with unit steps. Its ``mean`` drifts with
    what was flipped before and its order of ties is that of an unstable sort; neither is
    reproduced."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "auc"
    returned: ClassVar[str] = "curve"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        removal.check_steps(self.n_steps, self.features_in_step)
        if self.compat == "quantus" and self.order != "morf":
            raise ValueError("got order 'lerf' with compat 'quantus', which flips morf only")
        if self.compat == "quantus" and self.baseline == "mean":
            raise ValueError(
                "got baseline 'mean' with compat 'quantus', where it drifts from step to step; "
                "use 'black', 'white' or a number"
            )

    @property
    def direction(self) -> Direction:
        """Low is good when the most relevant features go first."""
        return "lower" if self.order == "morf" else "higher"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the share of features that are flipped."""
        sample = torch.empty(1, *shape, device="meta")
        n_features = removal.features(sample, by_pixel=self._by_pixel).shape[2]
        share = (self._counts(n_features) / n_features).tolist()
        x = (*([] if self.compat == "quantus" else [0.0]), *share)
        label = f"mean {self.output_space}"
        return (Curve("curve", x, "share of features flipped", label, "auc", self.direction),)

    def prepare(self, case: Case) -> Case:
        """Share target weights, the baseline, and the outputs before and after all flips."""
        trace = case.network_trace()
        weights = trace.cotangent(case.target)  # (batch, classes)
        features = removal.features(trace.inputs, by_pixel=self._by_pixel)
        baseline = self._baseline(features)  # (batch, channels, 1)
        blank = baseline.expand_as(features).reshape(trace.inputs.shape)
        with torch.no_grad():
            first = removal.selected(trace.output, weights, self.output_space)
            last = removal.selected(trace.network(blank), weights, self.output_space)
        return case.sharing(weights=weights, baseline=baseline, first=first, last=last)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``curve``, ``(batch, steps)``, and ``auc``."""
        trace, shared = case.network_trace(), case.shared
        relevance = relevance.abs() if self.absolute else relevance
        per_feature = removal.relevance_of_features(
            relevance, trace.inputs, by_pixel=self._by_pixel
        )
        ranks = removal.ranks(per_feature, descending=self.order == "morf")
        counts = self._counts(ranks.shape[1]).to(ranks.device)
        inner = self._perturbed(trace, shared["weights"], shared["baseline"], ranks, counts[:-1])
        curve = torch.cat([shared["first"][:, None], inner, shared["last"][:, None]], dim=1)
        curve = curve.where(per_feature.isfinite().all(dim=1)[:, None], torch.nan)
        if self.compat == "quantus":
            return {"curve": curve[:, 1:], "auc": torch.trapezoid(curve[:, 1:], dim=1)}
        share = torch.cat([counts.new_zeros(1), counts]).to(curve.dtype) / ranks.shape[1]
        return {"curve": curve, "auc": torch.trapezoid(curve, share, dim=1)}

    def _perturbed(
        self, trace: Trace, weights: Tensor, baseline: Tensor, ranks: Tensor, counts: Tensor
    ) -> Tensor:
        features = removal.features(trace.inputs, by_pixel=self._by_pixel)
        n_rows = len(features) * len(counts)
        chunk = removal.rows_at_once(trace.inputs)
        outputs = []
        for start in range(0, n_rows, chunk):
            row = torch.arange(start, min(start + chunk, n_rows), device=ranks.device)
            sample, step = row // len(counts), row % len(counts)
            flipped = ranks[sample] < counts[step][:, None]  # (rows, features)
            perturbed = torch.where(flipped[:, None], baseline[sample], features[sample])
            with torch.no_grad():
                output = trace.network(perturbed.reshape(-1, *trace.inputs.shape[1:]))
            outputs.append(removal.selected(output, weights[sample], self.output_space))
        return torch.cat([weights.new_empty(0), *outputs]).reshape(len(features), len(counts))

    @property
    def _by_pixel(self) -> bool:
        return self.compat is None

    def _baseline(self, features: Tensor) -> Tensor:
        if self.baseline == "black":
            return features.amin(dim=2, keepdim=True)
        if self.baseline == "white":
            return features.amax(dim=2, keepdim=True)
        if self.baseline == "mean":
            return features.mean(dim=2, keepdim=True)
        return torch.full_like(features[:, :, :1], float(self.baseline))

    def _counts(self, n_features: int) -> Tensor:
        """Return how many features are flipped at each step, ``(steps,)``."""
        one_each = self.compat == "quantus" and self.n_steps is None
        per_step = 1 if one_each and self.features_in_step is None else self.features_in_step
        return removal.counts(n_features, self.n_steps, per_step)
