"""How few features carry an explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics.metric import Direction, Metric, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.metrics.metric import Case

_QUANTUS_SHIFT = 1e-7
"""Quantus adds this to every magnitude so that an all-zero map has a score."""
_QUANTUS_SHARE = 1e-12
"""Quantus adds this to every share whose logarithm it takes."""


@register("sparseness")
@dataclass(frozen=True)
class Sparseness(Metric):
    r"""Gini index of the magnitudes of relevance (Chalasani et al. 2020, arXiv:1810.06583).

    With the D magnitudes of a map in ascending order,

    .. math:: G = \sum_i (2 i - D - 1) |r|_{(i)} \Big/ D \sum_i |r|_{(i)},

    0 where relevance is spread evenly and ``1 - 1/D`` where one feature has it all. The index
    does not depend on the map's scale. A map of zeros has no distribution to speak of: its score
    is NaN, which aggregates count as undefined.
    """

    channels: Literal["sum", "each"] = "sum"
    """As in `complexity`."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's order of work. Each value is a feature, maps are divided by the
    one maximum of the whole batch and 1e-7 is added to each magnitude, so a score depends on the
    batch (in the sixth digit, more for maps far smaller than the batch's largest) and a map of
    zeros scores 0."""

    family: ClassVar[str] = "complexity"
    headline: ClassVar[str] = "sparseness"

    @property
    def direction(self) -> Direction:
        """Concentrated maps are better."""
        return "higher"

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``sparseness``, float64."""
        magnitudes = _magnitudes(relevance, self.channels, self.compat)
        finite = magnitudes.isfinite().all(dim=1)
        if self.compat == "quantus":
            magnitudes = magnitudes / _largest_of_all(magnitudes, finite) + _QUANTUS_SHIFT
        gini = _gini(magnitudes)
        return {"sparseness": gini.where(finite, torch.nan)}


@register("complexity")
@dataclass(frozen=True)
class Complexity(Metric):
    r"""Entropy of the shares of features in an explanation (Bhatt et al. 2020, arXiv:2005.00631).

    .. math:: H = -\sum_i q_i \ln q_i, \quad q_i = |r_i| \Big/ \sum_j |r_j|,

    in nats: 0 where one feature has it all, ``ln D`` where D features share evenly. It does not
    depend on the map's scale. A map of zeros has no shares: its score is NaN, which aggregates
    count as undefined.
    """

    channels: Literal["sum", "each"] = "sum"
    """Of maps of images, ``(batch, channel, height, width)``: a feature is a pixel, whose channels
    are summed with their signs, or each value."""
    compat: Literal["quantus"] | None = None
    """``quantus``: each value is a feature, and 1e-12 is added to each share within the
    logarithm."""

    family: ClassVar[str] = "complexity"
    headline: ClassVar[str] = "complexity"

    @property
    def direction(self) -> Direction:
        """Explanations by few features are better."""
        return "lower"

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``complexity``, float64."""
        magnitudes = _magnitudes(relevance, self.channels, self.compat)
        largest = magnitudes.amax(dim=1, keepdim=True)
        shares = magnitudes / largest  # sums of huge relevance are finite, of tiny no zeros
        shares = shares / shares.sum(dim=1, keepdim=True)
        shift = _QUANTUS_SHARE if self.compat == "quantus" else 0.0
        entropy = -torch.special.xlogy(shares, shares + shift).sum(dim=1)
        is_defined = magnitudes.isfinite().all(dim=1) & (largest[:, 0] > 0)
        return {"complexity": entropy.where(is_defined, torch.nan)}


@register("effective_complexity")
@dataclass(frozen=True)
class EffectiveComplexity(Metric):
    r"""How many features have relevance to speak of (after Nguyen and Martinez 2020).

    arXiv:2007.07584. The number of features whose magnitude exceeds `eps` times the largest of the
    same map:

    .. math:: |\{i : |r_i| > \varepsilon \max_j |r_j|\}|,

    from 1 to D; ``share`` is that over D. The paper asks for the least number of features that
    explain the output up to a tolerance; counting those above a threshold, as Quantus does, needs
    no model. A map of zeros has none: 0.
    """

    eps: float = 1e-5
    """Threshold, as a share of the map's largest magnitude."""
    channels: Literal["sum", "each"] = "sum"
    """As in `complexity`."""
    compat: Literal["quantus"] | None = None
    """``quantus``: each value is a feature, and the threshold is a share of the largest magnitude
    of the whole batch, so that a score depends on the batch."""

    family: ClassVar[str] = "complexity"
    headline: ClassVar[str] = "effective_complexity"
    directions: ClassVar[Mapping[str, Direction]] = {"share": "lower"}

    def __post_init__(self) -> None:
        """Refuse a threshold that nothing, or everything, exceeds."""
        if not 0 <= self.eps < 1:
            raise ValueError(f"got eps {self.eps!r}, expected a share, from 0 to below 1")

    @property
    def direction(self) -> Direction:
        """Explanations by few features are better."""
        return "lower"

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``effective_complexity`` and ``share``, float64."""
        magnitudes = _magnitudes(relevance, self.channels, self.compat)
        finite = magnitudes.isfinite().all(dim=1)
        largest = magnitudes.amax(dim=1, keepdim=True)
        if self.compat == "quantus":
            largest = _largest_of_all(magnitudes, finite)
        counts = (magnitudes > self.eps * largest).sum(dim=1).double()
        counts = counts.where(finite, torch.nan)
        return {"effective_complexity": counts, "share": counts / magnitudes.shape[1]}


def _gini(magnitudes: Tensor) -> Tensor:
    n = magnitudes.shape[1]
    ordered = magnitudes.sort(dim=1).values
    weights = 2.0 * torch.arange(1, n + 1, dtype=ordered.dtype, device=ordered.device) - n - 1
    return (ordered * weights).sum(dim=1) / (n * ordered.sum(dim=1))


def _magnitudes(relevance: Tensor, channels: str, compat: str | None) -> Tensor:
    """Return the magnitude of each feature, float64 ``(batch, features)``."""
    if channels == "sum" and compat is None and relevance.ndim == 4:
        relevance = relevance.sum(dim=1)
    return relevance.flatten(1).to(torch.float64).abs()


def _largest_of_all(magnitudes: Tensor, finite: Tensor) -> Tensor:
    """Return Quantus' scale, the largest magnitude of the batch's finite maps."""
    largest = magnitudes[finite].max() if finite.any() else magnitudes.new_ones(())
    return largest.clamp_min(1e-300)
