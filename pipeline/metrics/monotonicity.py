"""Whether the output rises when features are put in, the least relevant first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics import removal
from pipeline.metrics.exchange import Exchange
from pipeline.metrics.metric import Case, Curve, Direction, Metric, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target


@register("monotonicity")
@dataclass(frozen=True)
class Monotonicity(Metric):
    r"""Share of steps at which the output does not fall while features are put in.

    Luss et al. 2019 (arXiv:1905.12698), as Arya et al. 2019 (arXiv:1909.03012) compute it: from
    the baseline, :math:`x^{(0)}`, features get the sample's values, the least relevant first, until
    the sample is whole, :math:`x^{(K)}`. With what is explained, f, and the steps S at which a
    value of the input changes,

    .. math:: M = |\{k \in S: f(x^{(k)}) - f(x^{(k-1)}) \ge -\epsilon \max_j |f(x^{(j)})|\}|
        \,/\, |S|,

    from 0 to 1. ``monotonicity`` is M, ``strict`` is 1 where M is 1 and else 0 (theirs: yes or no),
    ``curve`` is f at every step, the baseline's first, ``(batch, steps + 1)``. Ties go by position;
    in images a feature is a pixel with all its channels, elsewhere each value is one.

    A step that changes nothing, where the sample is as the baseline, says nothing about the map
    and does not count. So the baseline is not black by default: most of a digit is black, and such
    a picture would be its own baseline for most of the way. A sample that is its own baseline
    everywhere has no score, NaN. Small rises count as much as great ones: on digits maps in random
    order, along which the output drifts up, score above all others, so read it beside the control
    `random`. Quantus puts the baseline's values in instead of the sample's,
    which holds for any map; there is no mode for it.
    """

    n_steps: int | None = None
    """Steps from nothing to everything; 32 by default, never more than there are features. The
    original puts in one feature at a time."""
    features_in_step: int | None = None
    """Features per step, instead of `n_steps`."""
    baseline: removal.Absence = "mean"
    """What features are put into, as for `pixel_flipping`: a number, ``black``, ``white``, ``mean``
    (of the channel in the same sample), ``uniform`` or ``{blur: sigma}``."""
    output_space: Literal["probability", "logit"] = "probability"
    """What is measured."""
    absolute: bool = False
    """Order by magnitude (summed over channels) instead of by signed relevance."""
    tolerance: float = 1e-5
    """By how much the output may fall, as a share of its greatest magnitude on the way: rounding
    is no fall."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "monotonicity"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})
    shares: ClassVar[frozenset[str]] = frozenset({"strict"})
    directions: ClassVar[Mapping[str, Direction]] = {"strict": "higher"}

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        removal.check_steps(self.n_steps, self.features_in_step)
        removal.check_absence(self.baseline)
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"got tolerance {self.tolerance!r}, expected a number of 0 or more")

    @property
    def direction(self) -> Direction:
        """Maps along which the output always rises are better."""
        return "higher"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the share of features that are in."""
        n_features = removal.count(shape, by_pixel=True)
        share = tuple((self._counts(n_features) / n_features).tolist())
        x_label, y_label = "share of features inserted", f"mean {self.output_space}"
        return (Curve("curve", share, x_label, y_label, "monotonicity", "higher"),)

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what cannot be removed, and probabilities of one output."""
        removal.check(network, shape, self.output_space, self.baseline)

    def prepare(self, case: Case) -> Case:
        """Share the baseline and its output, and which features differ from it."""
        trace = case.network_trace()
        absent = removal.absent(trace, self.baseline)
        exchange = Exchange.removing(trace, case.target, absent, self.output_space).reversed()
        differs = (exchange.start != exchange.end).any(dim=1)  # (batch, features)
        return case.sharing(exchange=exchange, differs=differs)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``monotonicity``, ``strict`` and ``curve``."""
        relevance = relevance.abs() if self.absolute else relevance
        per_feature = removal.relevance_of_features(
            relevance, case.network_trace().inputs, by_pixel=True
        )
        ranks = removal.ranks(per_feature, descending=False)
        counts = self._counts(ranks.shape[1])
        curve = case.shared["exchange"].curve(ranks, counts, ranks.shape[1])
        step = torch.searchsorted(counts[1:].to(ranks.device), ranks.long(), right=True)
        differs = case.shared["differs"].to(torch.int64)
        changes = torch.zeros_like(curve[:, 1:], dtype=torch.int64).scatter_add_(1, step, differs)
        largest = curve.abs().amax(dim=1, keepdim=True)
        holds = curve.diff(dim=1) >= -self.tolerance * largest
        counted = changes > 0
        share = (holds & counted).sum(dim=1).to(curve.dtype) / counted.sum(dim=1)
        is_finite = per_feature.isfinite().all(dim=1)
        share = share.where(is_finite, torch.nan)
        strict = (share == 1).to(curve.dtype).where(share.isfinite(), torch.nan)
        curve = curve.where(is_finite[:, None], torch.nan)
        return {"monotonicity": share, "strict": strict, "curve": curve}

    def _counts(self, n_features: int) -> Tensor:
        return removal.counts_from_none(n_features, self.n_steps, self.features_in_step)
