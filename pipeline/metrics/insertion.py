"""How the output recovers when features are put in, in the order of their relevance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics import removal
from pipeline.metrics.exchange import Exchange
from pipeline.metrics.metric import Case, Curve, Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target

BLUR = 5.0
"""Width of the Gaussian of Petsiuk et al. (2018), in pixels."""


@register("insertion")
@dataclass(frozen=True)
class Insertion(Metric):
    """Output of the target while features enter a blurred image (Petsiuk et al. 2018).

    arXiv:1806.07421. Features are put in cumulatively, the most relevant first, ties by position.
    In images, ``(batch, channel, height, width)``, a feature is a pixel with all its channels,
    ordered by the sum of their relevance; elsewhere each value is one. ``curve`` starts with the
    output of the baseline and ends with that of the sample; ``auc`` is its trapezoid area over
    the share of features that are in, from 0 to 1. The paper's deletion is `pixel_flipping` with
    ``baseline: 0.0``.
    """

    n_steps: int | None = None
    """Steps from nothing to everything; 32 by default, never more than there are features."""
    features_in_step: int | None = None
    """Features per step, instead of `n_steps`."""
    order: Literal["morf", "lerf"] = "morf"
    """Most relevant first (a high curve is good) or least relevant first (a low one)."""
    baseline: removal.Absence | None = None
    """What features are put into: by default images under a Gaussian of 5 pixels, as in the paper,
    and elsewhere the sample's mean. Else as for `pixel_flipping`: a number, ``black``, ``white``,
    ``mean``, ``uniform`` or ``{blur: sigma}``."""
    output_space: Literal["probability", "logit"] = "probability"
    """What is measured."""
    absolute: bool = False
    """Order by magnitude (summed over channels) instead of by signed relevance."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "auc"
    returned: ClassVar[str] = "curve"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        removal.check_steps(self.n_steps, self.features_in_step)
        if self.baseline is not None:
            removal.check_absence(self.baseline)

    @property
    def direction(self) -> Direction:
        """High is good when the most relevant features go first."""
        return "higher" if self.order == "morf" else "lower"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the share of features that are in."""
        n_features = removal.count(shape, by_pixel=True)
        share = tuple((self._counts(n_features) / n_features).tolist())
        label = f"mean {self.output_space}"
        return (Curve("curve", share, "share of features inserted", label, "auc", self.direction),)

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what cannot be removed, and probabilities of one output."""
        removal.check(network, shape, self.output_space, self._start(shape))

    def prepare(self, case: Case) -> Case:
        """Share the baseline and its output."""
        trace = case.network_trace()
        absent = removal.absent(trace, self._start(trace.inputs.shape[1:]))
        exchange = Exchange.removing(trace, case.target, absent, self.output_space).reversed()
        return case.sharing(exchange=exchange)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``curve``, ``(batch, steps)``, and ``auc``."""
        relevance = relevance.abs() if self.absolute else relevance
        per_feature = removal.relevance_of_features(
            relevance, case.network_trace().inputs, by_pixel=True
        )
        ranks = removal.ranks(per_feature, descending=self.order == "morf")
        counts = self._counts(ranks.shape[1])
        curve = case.shared["exchange"].curve(ranks, counts, ranks.shape[1])
        curve = curve.where(per_feature.isfinite().all(dim=1)[:, None], torch.nan)
        share = counts.to(curve) / ranks.shape[1]
        return {"curve": curve, "auc": torch.trapezoid(curve, share, dim=1)}

    def _start(self, shape: tuple[int, ...]) -> removal.Absence:
        if self.baseline is not None:
            return self.baseline
        return {"blur": BLUR} if len(shape) == 3 else "mean"

    def _counts(self, n_features: int) -> Tensor:
        return removal.counts_from_none(n_features, self.n_steps, self.features_in_step)
