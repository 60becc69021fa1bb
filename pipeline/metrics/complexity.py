"""How few features carry an explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics.metric import Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.metrics.metric import Case

_QUANTUS_SHIFT = 1e-7
"""Quantus adds this to every magnitude so that an all-zero map has a score."""


@register("sparseness")
@dataclass(frozen=True)
class Sparseness(Metric):
    r"""Gini index of the magnitudes of relevance (Chalasani et al. 2020, arXiv:1810.06583).

    With the D magnitudes of a map in ascending order,

    .. math:: G = \sum_i (2 i - D - 1) |r|_{(i)} \Big/ D \sum_i |r|_{(i)},

    0 where relevance is spread evenly and ``1 - 1/D`` where one feature has it all. All values
    of a map count, channels too. The index does not depend on the map's scale. A map of zeros
    has no distribution to speak of: its score is NaN, which aggregates count as undefined.
    """

    compat: Literal["quantus"] | None = None
    """``quantus``: that library's order of work. Maps are divided by the one maximum of the whole
    batch and 1e-7 is added to each magnitude, so a score depends on the batch (in the sixth
    digit, more for maps far smaller than the batch's largest) and a map of zeros scores 0."""

    family: ClassVar[str] = "complexity"
    headline: ClassVar[str] = "sparseness"

    @property
    def direction(self) -> Direction:
        """Concentrated maps are better."""
        return "higher"

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``sparseness``, float64."""
        magnitudes = relevance.flatten(1).to(torch.float64).abs()  # (batch, features)
        finite = magnitudes.isfinite().all(dim=1)
        if self.compat == "quantus":
            largest = magnitudes[finite].max() if finite.any() else magnitudes.new_ones(())
            magnitudes = magnitudes / largest.clamp_min(1e-300) + _QUANTUS_SHIFT
        gini = _gini(magnitudes)
        return {"sparseness": gini.where(finite, torch.nan)}


def _gini(magnitudes: Tensor) -> Tensor:
    n = magnitudes.shape[1]
    ordered = magnitudes.sort(dim=1).values
    weights = 2.0 * torch.arange(1, n + 1, dtype=ordered.dtype, device=ordered.device) - n - 1
    return (ordered * weights).sum(dim=1) / (n * ordered.sum(dim=1))
