"""Whether relevance lies on the object, whose mask is known."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from pipeline.metrics.masks import MaskMetric
from pipeline.metrics.metric import register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target

Sign = Literal["signed", "positive", "absolute"]

_QUANTUS_SHIFT = 1e-9
"""Quantus adds this to the sum of relevance of `attribution_localisation`."""
_QUANTUS_K = 1000


@dataclass(frozen=True)
class Localisation(MaskMetric):
    """A score of how much of a map, or of what is largest in it, lies within the mask."""

    sign: Sign | None = None
    """What counts as large: relevance as it is (``signed``), only what speaks for the target
    (``positive``; the rest is 0), or magnitudes (``absolute``). By default what the paper has: the
    summary says which. Channels are summed first."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition and its default sign."""

    of_paper: ClassVar[Sign] = "signed"
    of_quantus: ClassVar[Sign] = "signed"

    def _agreement(self, values: Tensor, mask: Tensor) -> Tensor:
        sign = self.sign or (self.of_paper if self.compat is None else self.of_quantus)
        if sign == "positive":
            values = values.clamp_min(0.0)
        elif sign == "absolute":
            values = values.abs()
        return self._located(values, mask)

    @abstractmethod
    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return the score of values that count as they are; otherwise as `_agreement`."""


@register("pointing_game")
@dataclass(frozen=True)
class PointingGame(Localisation):
    """Whether the largest value of a map lies in the mask (Zhang et al. 2018, arXiv:1608.00507).

    1 for a hit, 0 for a miss. Where several places share the largest value, the share of them that
    hits: what a choice among them by lot would score, so that a map that is the same everywhere
    scores what chance does, the mask's share of the picture. Relevance is signed by default.
    """

    tolerance: float = 0.0
    """Pixels beside the mask that still hit, in Euclidean distance; 15 in the paper."""

    headline: ClassVar[str] = "pointing_game"
    shares: ClassVar[frozenset[str]] = frozenset({"pointing_game"})

    def __post_init__(self) -> None:
        """Refuse distances below 0."""
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"got tolerance {self.tolerance!r}, expected a number from 0")
        if self.tolerance and self.compat is not None:
            raise ValueError("got tolerance with compat 'quantus', which has none")

    def _searched(self, mask: Tensor) -> Tensor:
        return _dilated(mask, self.tolerance) if self.tolerance >= 1 else mask

    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        largest = values == values.amax(dim=1, keepdim=True)
        if self.compat == "quantus":
            return (largest & mask).any(dim=1).double()
        return (largest & mask).sum(dim=1).double() / largest.sum(dim=1)


@register("relevance_rank_accuracy")
@dataclass(frozen=True)
class RelevanceRankAccuracy(Localisation):
    r"""Share of the largest values that lies in the mask (Arras et al. 2022, arXiv:2003.07258).

    .. math:: A = |\text{top}_K(r) \cap M| / K, \quad K = |M|,

    from 0 to 1. Of values that tie at the K-th place, as many count as places are left, each by
    the share of them that is in the mask: the mean over all orders of ties. A map that is the same
    everywhere scores the mask's share of the picture. Relevance is signed by default.
    """

    headline: ClassVar[str] = "relevance_rank_accuracy"

    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        size = mask.sum(dim=1)
        return _hits(values, mask, size.clamp_min(1)) / size


@register("top_k_intersection")
@dataclass(frozen=True)
class TopKIntersection(Localisation):
    r"""Share of the k largest values that lies in the mask (Theiner et al. 2022, arXiv:2104.14995).

    .. math:: |\text{top}_k(r) \cap M| / k,

    from 0 to 1; ties count as in `relevance_rank_accuracy`. Relevance is signed by default.
    """

    k: int | None = None
    """How many values; by default `share` of them. 1000 by default with compat ``quantus``."""
    share: float = 0.05
    """The share of a map's values, instead of `k`, rounded up."""
    concept_influence: bool = False
    """Divide by the mask's share of the picture, so that chance scores 1, whatever its size."""

    headline: ClassVar[str] = "top_k_intersection"

    def __post_init__(self) -> None:
        """Refuse numbers of nothing."""
        if self.k is not None and self.k < 1:
            raise ValueError(f"got k {self.k!r}, expected at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"got share {self.share!r}, expected a number above 0, at most 1")

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse to look at more values than a map has."""
        is_summed = self.channels == "sum" and len(shape) > 2
        self._size(math.prod(shape[1:] if is_summed else shape))

    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        k = self._size(values.shape[1])
        found = _hits(values, mask, torch.full_like(mask[:, 0], k, dtype=torch.int64)) / k
        return found / mask.double().mean(dim=1) if self.concept_influence else found

    def _size(self, n_values: int) -> int:
        k = self.k or (_QUANTUS_K if self.compat == "quantus" else None)
        if k is None:
            return math.ceil(self.share * n_values)
        if k > n_values:
            raise ValueError(
                f"got k {k} for maps of {n_values} values, expected at most as many; set k, or "
                "share instead"
            )
        return k


@register("relevance_mass_accuracy")
@dataclass(frozen=True)
class RelevanceMassAccuracy(Localisation):
    r"""Share of the relevance that lies in the mask (Arras et al. 2022, arXiv:2003.07258).

    .. math:: A = \sum_{i \in M} r_i \Big/ \sum_i r_i,

    from 0 to 1 for relevance that is ``positive``, the default, or ``absolute``. Of ``signed``
    relevance, as Quantus takes it, the sum may be small or negative, and the score anything.
    Without any relevance there is no share: NaN.
    """

    headline: ClassVar[str] = "relevance_mass_accuracy"
    of_paper: ClassVar[Sign] = "positive"

    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        return _mass(values, mask)


@register("attribution_localisation")
@dataclass(frozen=True)
class AttributionLocalisation(Localisation):
    r"""Ratio of the relevance inside to all of it (Kohlbrenner et al. 2020, arXiv:1910.09840).

    .. math:: \mu = \sum_{i \in M} r_i \Big/ \sum_i r_i, \qquad
        \mu_w = \mu \; |I| / |M|,

    of ``positive`` relevance by default, from 0 to 1; with `weighted`, over the mask's share of the
    picture I, so that chance scores 1. Without any relevance there is no ratio: NaN.
    """

    weighted: bool = False
    """Whether large masks are discounted."""
    max_size: float = 1.0
    """Samples whose mask takes a larger share of the picture have no score: in them relevance lies
    inside by chance. Half and a quarter in the paper."""

    headline: ClassVar[str] = "attribution_localisation"
    of_paper: ClassVar[Sign] = "positive"
    of_quantus: ClassVar[Sign] = "absolute"

    def __post_init__(self) -> None:
        """Refuse sizes out of range, and what Quantus computes of a batch's size."""
        if not 0 < self.max_size <= 1:
            raise ValueError(f"got max_size {self.max_size!r}, expected above 0, at most 1")
        if self.weighted and self.compat is not None:
            raise ValueError(
                "got weighted with compat 'quantus', which weighs by the size of the batch and "
                "multiplies where the paper divides; leave compat out"
            )

    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        share = mask.double().mean(dim=1)
        if self.compat == "quantus":
            ratio = (values * mask).sum(dim=1) / (values.sum(dim=1) + _QUANTUS_SHIFT)
            return ratio.where(ratio <= 1, torch.nan)
        ratio = _mass(values, mask)
        ratio = ratio / share if self.weighted else ratio
        return ratio.where(share <= self.max_size, torch.nan)


@register("localisation_auc")
@dataclass(frozen=True)
class LocalisationAUC(Localisation):
    r"""Area under the ROC curve of a map as a detector of the mask (Fawcett 2006).

    doi:10.1016/j.patrec.2005.10.010. The probability that a place in the mask has more relevance
    than one beside it, ties counted half:

    .. math:: A = \Big(\sum_{i \in M} \text{rank}_i - m (m + 1) / 2\Big) \Big/ m (n - m)

    with ranks averaged over ties, m places in the mask and n in all. From 0 to 1; a map that is the
    same everywhere scores 0.5. A mask of everything has nothing beside it: NaN. Relevance is signed
    by default.
    """

    headline: ClassVar[str] = "localisation_auc"

    def _located(self, values: Tensor, mask: Tensor) -> Tensor:
        ordered = values.sort(dim=1).values
        below = torch.searchsorted(ordered, values, right=False)
        up_to = torch.searchsorted(ordered, values, right=True)
        rank = (below + up_to + 1).double() / 2
        inside = mask.sum(dim=1).double()
        outside = mask.shape[1] - inside
        return ((rank * mask).sum(dim=1) - inside * (inside + 1) / 2) / (inside * outside)


def _mass(values: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the sum that is inside, ``(batch,)``."""
    largest = values.abs().amax(dim=1, keepdim=True)
    values = values / largest.where(largest > 0, 1.0)  # sums of tiny relevance are no zeros
    return (values * mask).sum(dim=1) / values.sum(dim=1)


def _hits(values: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Return how many of the largest values are in the mask, ties by their share, ``(batch,)``.

    Parameters
    ----------
    values, mask
        ``(batch, places)``.
    counts
        How many values are looked at, from 1, int64 ``(batch,)``.
    """
    ordered = values.sort(dim=1, descending=True).values
    last = ordered.gather(1, (counts - 1)[:, None])
    above, tied = values > last, values == last
    left = counts - above.sum(dim=1)
    share = (tied & mask).sum(dim=1).double() / tied.sum(dim=1)
    return (above & mask).sum(dim=1) + left * share


def _dilated(mask: Tensor, radius: float) -> Tensor:
    """Return the places at most so far from the mask, in the shape of the mask."""
    if mask.ndim > 4 or (mask.ndim == 4 and mask.shape[1] != 1):
        raise ValueError(
            f"got masks of shape {tuple(mask.shape)} and a tolerance, expected (batch, height, "
            "width)"
        )
    height, width = (1, *mask.shape[1:])[-2:]
    reach = min(int(radius), max(height, width))
    step = torch.arange(-reach, reach + 1, device=mask.device)
    disc = (step[:, None].square() + step.square() <= radius**2).float()
    pictures = (mask > 0).float().view(-1, 1, height, width)
    near = F.conv2d(pictures, disc[None, None], padding=reach) > 0.5
    return near.view(mask.shape)
