"""How the output follows when features are removed in the order of their relevance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics.metric import Case, Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.trace import Trace

_DEFAULT_STEPS = 32
_CHUNK_BYTES = 32 * 2**20
"""Perturbed inputs alive at once; activations of a network take ten to thirty times as much."""

_CHUNK_ROWS = 512
"""Larger batches were no faster on processors and only cost memory."""


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
        if self.n_steps is not None and self.features_in_step is not None:
            raise ValueError("got n_steps and features_in_step, expected one of them")
        for name in ("n_steps", "features_in_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"got {name} {value!r}, expected at least 1")
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

    def prepare(self, case: Case) -> Case:
        """Share target weights, the baseline, and the outputs before and after all flips."""
        trace = case.network_trace()
        weights = trace.cotangent(case.target)  # (batch, classes)
        features = self._features(trace.inputs)  # (batch, channels, features)
        baseline = self._baseline(features)  # (batch, channels, 1)
        blank = baseline.expand_as(features).reshape(trace.inputs.shape)
        with torch.no_grad():
            first = self._selected(trace.output, weights)
            last = self._selected(trace.network(blank), weights)
        return case.sharing(weights=weights, baseline=baseline, first=first, last=last)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``curve``, ``(batch, steps)``, and ``auc``."""
        trace, shared = case.network_trace(), case.shared
        per_feature = self._relevance(relevance, trace.inputs)
        ranks = _ranks(per_feature, descending=self.order == "morf")  # (batch, features)
        counts = self._counts(ranks.shape[1], ranks.device)
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
        features = self._features(trace.inputs)
        n_rows = len(features) * len(counts)
        chunk = _chunk_rows(trace.inputs)
        outputs = []
        for start in range(0, n_rows, chunk):
            row = torch.arange(start, min(start + chunk, n_rows), device=ranks.device)
            sample, step = row // len(counts), row % len(counts)
            flipped = ranks[sample] < counts[step][:, None]  # (rows, features)
            perturbed = torch.where(flipped[:, None], baseline[sample], features[sample])
            with torch.no_grad():
                output = trace.network(perturbed.reshape(-1, *trace.inputs.shape[1:]))
            outputs.append(self._selected(output, weights[sample]))
        return torch.cat([weights.new_empty(0), *outputs]).reshape(len(features), len(counts))

    def _selected(self, output: Tensor, weights: Tensor) -> Tensor:
        values = output.softmax(dim=1) if self.output_space == "probability" else output
        return (values * weights).sum(dim=1)

    def _features(self, inputs: Tensor) -> Tensor:
        """View inputs as ``(batch, channels, features)``; channels of a feature flip together."""
        if inputs.ndim == 4 and self.compat is None:
            return inputs.flatten(2)
        return inputs.flatten(1)[:, None]

    def _relevance(self, relevance: Tensor, inputs: Tensor) -> Tensor:
        """Return relevance per feature, ``(batch, features)``."""
        if inputs.ndim == 4 and relevance.ndim == 3:
            relevance = relevance[:, None]
        spatial = inputs.ndim == 4 and relevance.shape[1] == 1
        expected = (inputs.shape[0], 1, *inputs.shape[2:]) if spatial else tuple(inputs.shape)
        if tuple(relevance.shape) != expected:
            raise ValueError(
                f"got maps of shape {tuple(relevance.shape)}, expected {tuple(inputs.shape)}, "
                "or the sum over its channels"
            )
        if self.compat == "quantus":
            relevance = relevance.expand_as(inputs)
        relevance = relevance.abs() if self.absolute else relevance
        return self._features(relevance).sum(dim=1)

    def _baseline(self, features: Tensor) -> Tensor:
        if self.baseline == "black":
            return features.amin(dim=2, keepdim=True)
        if self.baseline == "white":
            return features.amax(dim=2, keepdim=True)
        if self.baseline == "mean":
            return features.mean(dim=2, keepdim=True)
        return torch.full_like(features[:, :, :1], float(self.baseline))

    def _counts(self, n_features: int, device: torch.device) -> Tensor:
        """Return how many features are flipped at each step, ``(steps,)``."""
        per_step = self.features_in_step
        if per_step is None and self.n_steps is None and self.compat == "quantus":
            per_step = 1
        if per_step is not None:
            n_steps = -(-n_features // per_step)
            counts = (torch.arange(1, n_steps + 1) * per_step).clamp_max(n_features)
        else:
            n_steps = min(self.n_steps or _DEFAULT_STEPS, n_features)
            counts = torch.arange(1, n_steps + 1) * n_features // n_steps
        return counts.to(device)


def _ranks(relevance: Tensor, *, descending: bool) -> Tensor:
    """Return the position of each feature in the order of flipping; ties keep their order."""
    order = relevance.argsort(dim=1, descending=descending, stable=True)
    position = torch.arange(order.shape[1], dtype=torch.int32, device=order.device)
    ranks = torch.empty(order.shape, dtype=torch.int32, device=order.device)
    return ranks.scatter_(1, order, position.expand_as(order))


def _chunk_rows(inputs: Tensor) -> int:
    row_bytes = inputs[0].numel() * inputs.element_size() if len(inputs) else 1
    return max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(row_bytes, 1)))
