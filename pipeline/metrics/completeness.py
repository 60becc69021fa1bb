"""Whether relevance adds up to what it explains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers import baselines
from pipeline.metrics import removal
from pipeline.metrics.metric import Case, Direction, Metric, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target


@register("completeness")
@dataclass(frozen=True)
class Completeness(Metric):
    r"""How far relevance is from adding up to the change of output (Sundararajan et al. 2017).

    arXiv:1703.01365. With the change from the baseline b to the sample x,

    .. math:: \Delta = f(x) - f(b), \qquad
        \text{relative\_residual} = \Big|\sum_i r_i - \Delta\Big| \Big/ |\Delta|,

    of the logit that is explained by default. 0 where the axiom holds; ``residual`` is the
    signed numerator, in units of the output, ``is_complete`` whether the relative one is at most
    `tolerance`, 1 or 0; ``total`` and ``change`` are the two sums. Where the output does not change
    there is nothing to be relative to: ``relative_residual`` is NaN, and a map is complete that
    sums to 0 exactly. Means of relative residuals are ruled by samples that change little; look at
    medians and at the mean of ``is_complete``.
    """

    baseline: baselines.Baseline | Literal["nothing"] = None
    """Where relevance starts: zeros by default, a number, one number a channel, a tensor, ``min``,
    ``max`` or ``mean`` of the sample, ``{"blur": sigma}``; what integrated gradients, DeepLIFT and
    Shapley values were given. ``nothing`` compares with the output itself, of which LRP distributes
    all but what biases take."""
    output_space: Literal["logit", "probability"] = "logit"
    """What was explained; explainers here explain logits."""
    tolerance: float = 0.01
    """Relative residual up to which a map is complete."""

    family: ClassVar[str] = "axioms"
    headline: ClassVar[str] = "relative_residual"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})
    shares: ClassVar[frozenset[str]] = frozenset({"is_complete"})
    directions: ClassVar[Mapping[str, Direction]] = {"is_complete": "higher"}

    def __post_init__(self) -> None:
        """Refuse baselines that are not known here, and tolerances out of range."""
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"got tolerance {self.tolerance!r}, expected a number from 0")
        if baselines.is_data_mean(self.baseline) or baselines.is_drawn(self.baseline):
            raise ValueError(
                f"got the baseline {self.baseline!r}, expected one that follows from the sample; "
                "pass the values that the explainer had, or 'nothing'"
            )

    @property
    def direction(self) -> Direction:
        """Small residuals are better."""
        return "lower"

    @property
    def space(self) -> Literal["logit", "probability"]:
        """The output space that was asked for."""
        return self.output_space

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse a baseline that does not fit the samples."""
        baseline = self.baseline
        if not (isinstance(baseline, str) and baseline == "nothing"):
            baselines.check(baseline, shape)

    def prepare(self, case: Case) -> Case:
        """Share the change of the output from the baseline to the sample, float64."""
        trace = case.network_trace()
        weights = trace.cotangent(case.target)  # (batch, classes)
        change = removal.selected(trace.output, weights, self.output_space).double()
        baseline = self.baseline
        if not (isinstance(baseline, str) and baseline == "nothing"):
            blank = baselines.resolve(baseline, trace.inputs)  # (1, ...) or (batch, ...)
            with torch.no_grad():
                output = trace.network(blank.contiguous())
            output = output.expand(len(weights), -1)
            change = change - removal.selected(output, weights, self.output_space).double()
        return case.sharing(change=change)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return residuals and what they are of, float64."""
        change = case.shared["change"]
        maps = relevance.flatten(1).double()
        total = maps.sum(dim=1).where(maps.isfinite().all(dim=1), torch.nan)
        residual = total - change
        relative = residual.abs() / change.abs().where(change != 0, torch.nan)
        is_complete = (residual.abs() <= self.tolerance * change.abs()).double()
        return {
            "relative_residual": relative,
            "residual": residual,
            "is_complete": is_complete.where(total.isfinite(), torch.nan),
            "total": total,
            "change": change,
        }
