"""Maps beside masks of the object: what all such scores do alike, and the plainest two."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics.metric import Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.metrics.metric import Case


@dataclass(frozen=True)
class MaskMetric(Metric):
    """A score of the values of a map beside those of its sample's mask.

    A map that is not finite has no score, nor has a sample whose mask is empty.
    """

    channels: Literal["sum", "each"] = "sum"
    """``sum``: relevance is summed over the channels of a pixel; ``each``: every value of the map
    is compared with the mask at its pixel."""

    family: ClassVar[str] = "localisation"
    requires: ClassVar[frozenset[str]] = frozenset({"masks"})

    @property
    def direction(self) -> Direction:
        """Maps that agree with the mask are better."""
        return "higher"

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return the headline, float64."""
        if case.mask is None:
            raise ValueError(f"got no masks, expected mask=: {self.name!r} compares maps with them")
        mask = self._searched(case.mask.to(relevance.device))
        values, mask = _beside(relevance, mask, self.channels)
        is_defined = values.isfinite().all(dim=1) & mask.any(dim=1)
        return {self.headline: self._agreement(values, mask).where(is_defined, torch.nan)}

    def _searched(self, mask: Tensor) -> Tensor:
        """Return the places that count as the mask's, in its shape."""
        return mask

    @abstractmethod
    def _agreement(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return the score of each row of values, float64, and mask, bool ``(batch, places)``."""


@register("mask_correlation")
@dataclass(frozen=True)
class MaskCorrelation(MaskMetric):
    r"""Pearson's correlation of a map and the mask, over all places of a sample.

    .. math:: \rho = \sum_i (r_i - \bar r) (m_i - \bar m) \Big/
        \sqrt{\sum_i (r_i - \bar r)^2 \sum_i (m_i - \bar m)^2}

    with the mask as 0 and 1, from -1 to 1 (the comparison with masks of Macdonald et al. 2019,
    arXiv:1905.11092). A map that is the same everywhere, and a mask of everything, vary with
    nothing: NaN, which aggregates count as undefined.
    """

    headline: ClassVar[str] = "mask_correlation"

    def _agreement(self, values: Tensor, mask: Tensor) -> Tensor:
        # a constant minus its mean is rounding, and rounding correlates with anything
        varies = values.amax(dim=1) > values.amin(dim=1)
        largest = values.abs().amax(dim=1, keepdim=True)
        values = values / largest.where(largest > 0, 1.0)  # squares of small relevance are no zeros
        centred = values - values.mean(dim=1, keepdim=True)
        weights = mask.to(values.dtype)
        weights = weights - weights.mean(dim=1, keepdim=True)
        scale = (centred.square().sum(dim=1) * weights.square().sum(dim=1)).sqrt()
        found = ((centred * weights).sum(dim=1) / scale).clamp(-1.0, 1.0)
        return found.where(varies & ~mask.all(dim=1), torch.nan)


@register("mask_jaccard")
@dataclass(frozen=True)
class MaskJaccard(MaskMetric):
    r"""Jaccard index of the mask and the places where a map exceeds its own mean.

    .. math:: J = |\{r_i > \bar r\} \cap M| \,/\, |\{r_i > \bar r\} \cup M|,

    from 0 to 1 (the comparison with masks of Macdonald et al. 2019, arXiv:1905.11092). No place
    of a map that is the same everywhere exceeds the mean: its score is 0.
    """

    headline: ClassVar[str] = "mask_jaccard"

    def _agreement(self, values: Tensor, mask: Tensor) -> Tensor:
        varies = values.amax(dim=1, keepdim=True) > values.amin(dim=1, keepdim=True)
        exceeds = (values > values.mean(dim=1, keepdim=True)) & varies
        return (exceeds & mask).sum(dim=1).double() / (exceeds | mask).sum(dim=1)


def _beside(relevance: Tensor, mask: Tensor, channels: str) -> tuple[Tensor, Tensor]:
    """Return values, float64, and mask, bool, ``(batch, places)`` each."""
    values = relevance.to(torch.float64)
    if values.ndim > mask.ndim and values.shape[2:] == mask.shape[1:]:
        values = values.sum(dim=1, keepdim=True) if channels == "sum" else values
        places = mask[:, None].expand_as(values)
    else:
        places = mask
    if _shape(values) != _shape(places):
        raise ValueError(
            f"got maps of shape {tuple(relevance.shape)} and masks of shape {tuple(mask.shape)}, "
            "expected masks shaped as the maps, or as one of their channels"
        )
    return values.flatten(1), places.flatten(1) > 0


def _shape(tensor: Tensor) -> list[int]:
    """Return the shape without axes of length 1 behind the batch."""
    return [len(tensor), *(n for n in tensor.shape[1:] if n != 1)]
