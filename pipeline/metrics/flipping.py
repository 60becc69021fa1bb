"""How the output follows when features are removed in the order of their relevance."""

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
    baseline: removal.Absence = "black"
    """What a flipped feature becomes: a number; ``black``, ``white`` or ``mean``, the least,
    greatest or mean value of its channel in the same sample (the whole sample where there are no
    channels); ``uniform``, a number between the least and the greatest, one draw for all steps and
    explainers; or ``{blur: sigma}``, the image under a Gaussian of so many pixels."""
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
        removal.check_absence(self.baseline)
        if self.compat == "quantus" and self.order != "morf":
            raise ValueError("got order 'lerf' with compat 'quantus', which flips morf only")
        if self.compat == "quantus":
            removal.check_quantus_absence(self.baseline)

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
        n_features = removal.count(shape, by_pixel=self._by_pixel)
        x = tuple((self._counts(n_features) / n_features).tolist())
        label = f"mean {self.output_space}"
        return (Curve("curve", x, "share of features flipped", label, "auc", self.direction),)

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what cannot be removed, and probabilities of one output."""
        removal.check(network, shape, self.output_space, self.baseline)

    def prepare(self, case: Case) -> Case:
        """Share the baseline, and the outputs before and after all flips."""
        trace = case.network_trace()
        absent = removal.absent(trace, self.baseline, by_pixel=self._by_pixel)
        exchange = Exchange.removing(
            trace, case.target, absent, self.output_space, by_pixel=self._by_pixel
        )
        return case.sharing(exchange=exchange)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``curve``, ``(batch, steps)``, and ``auc``."""
        relevance = relevance.abs() if self.absolute else relevance
        per_feature = removal.relevance_of_features(
            relevance, case.network_trace().inputs, by_pixel=self._by_pixel
        )
        ranks = removal.ranks(per_feature, descending=self.order == "morf")
        n_features = ranks.shape[1]
        counts = self._counts(n_features)
        curve = case.shared["exchange"].curve(ranks, counts, n_features)
        curve = curve.where(per_feature.isfinite().all(dim=1)[:, None], torch.nan)
        if self.compat == "quantus":
            return {"curve": curve, "auc": torch.trapezoid(curve, dim=1)}
        share = counts.to(curve) / n_features
        return {"curve": curve, "auc": torch.trapezoid(curve, share, dim=1)}

    @property
    def _by_pixel(self) -> bool:
        return self.compat is None

    def _counts(self, n_features: int) -> Tensor:
        """Return how many features are flipped at each point of the curve, ``(steps,)``."""
        if self.compat is None:
            return removal.counts_from_none(n_features, self.n_steps, self.features_in_step)
        one_each = self.n_steps is None and self.features_in_step is None
        return removal.counts(n_features, self.n_steps, 1 if one_each else self.features_in_step)
