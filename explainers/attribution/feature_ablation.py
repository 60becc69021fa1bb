"""What the output loses when a feature is switched off."""

from __future__ import annotations

from dataclasses import dataclass

from explainers.catalogue import register
from explainers.perturbing.ablation import Ablation


@register("feature_ablation")
@dataclass(frozen=True)
class FeatureAblation(Ablation):
    """Output at the sample minus output without the feature, ``f(x) - f(x without i)``.

    Zeiler and Fergus 2014, arXiv:1311.2901; Captum's FeatureAblation. With a `background`, the
    feature takes the values of other samples, one after the other, and the mean over them is
    subtracted; the array ``standard_error``, shaped like the map, is that of the mean (NaN for one
    draw). The array ``n_evaluations``, ``(batch,)``, counts forward passes.
    """
