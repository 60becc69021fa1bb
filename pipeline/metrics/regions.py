"""How the output falls when regions of an input are removed in the order of their relevance."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers.features.cuts import Patches
from explainers.features.labels import Labels
from pipeline.metrics import removal
from pipeline.metrics.exchange import Exchange
from pipeline.metrics.metric import Case, Curve, Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

PATCH = 8
"""Side of a patch, as in Quantus; Samek et al. take 9 for photographs, Montavon et al. 4 for
digits."""


@dataclass(frozen=True)
class RegionMetric(Metric):
    """A score of the output while regions are removed, one after the other.

    Regions go in the order of their relevance, ties by their number. All channels of a place lie
    in one region. A map that is not finite scores NaN.
    """

    output_space: Literal["probability", "logit"] = "probability"
    """What is measured."""
    absolute: bool = False
    """Order by magnitude (summed over channels) instead of by signed relevance."""

    family: ClassVar[str] = "faithfulness"
    returned: ClassVar[str] = "curve"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})
    by_mean: ClassVar[bool] = False
    """Whether a region is as relevant as its places are on average, or all together."""

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    @abstractmethod
    def _labels(self, trace: Trace) -> Labels:
        """Return the region of each place of the samples."""

    def _shared(self, case: Case, absent: Tensor) -> Case:
        """Share what all explainers exchange, and where the regions are."""
        trace = case.network_trace()
        labels = self._labels(trace)
        cells = labels.cells.to(trace.inputs.device)
        if trace.inputs.ndim != 4:
            cells = cells.expand(-1, *trace.inputs.shape[1:])
        counts = torch.tensor(labels.counts).expand(len(trace.inputs))  # on the host
        return case.sharing(
            exchange=Exchange.removing(trace, case.target, absent, self.output_space),
            cells=cells.flatten(1).expand(len(trace.inputs), -1),  # (batch, features)
            counts=counts,
        )

    def _places(self, case: Case, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return when each feature goes, ``(batch, features)``, and which maps are finite."""
        relevance = relevance.abs() if self.absolute else relevance
        per_feature = removal.relevance_of_features(
            relevance, case.network_trace().inputs, by_pixel=True
        )
        cells, counts = case.shared["cells"], case.shared["counts"]
        # sums in float64 of float32 values hardly depend on the order, which devices do not keep
        values = per_feature.to(torch.float64)
        regions = values.new_zeros(len(cells), int(counts.max()))
        regions.scatter_add_(1, cells, values)
        if self.by_mean:
            regions /= torch.zeros_like(regions).scatter_add_(1, cells, torch.ones_like(values))
        is_there = torch.arange(regions.shape[1]) < counts[:, None]
        beyond = -torch.inf if self._descending else torch.inf
        regions = regions.where(is_there.to(regions.device), beyond)
        ranks = removal.ranks(regions, descending=self._descending)
        return ranks.gather(1, cells), per_feature.isfinite().all(dim=1)

    @property
    def _descending(self) -> bool:
        """Whether the most relevant regions go first."""
        return True


@dataclass(frozen=True)
class PatchMetric(RegionMetric):
    """A score of the output while the patches of a grid are removed."""

    patch_size: int | tuple[int, ...] = PATCH
    """Side of a patch in pixels, or its height and width. Where it does not divide the side of an
    image, the last patches are smaller."""
    baseline: removal.Absence = "black"
    """What a removed region becomes: a number; ``black``, ``white`` or ``mean``, the least,
    greatest or mean value of its channel in the same sample (the whole sample where there are no
    channels); ``uniform``, a number between the least and the greatest for each value, one draw for
    all steps and explainers; or ``{blur: sigma}``, the image under a Gaussian of so many pixels."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's numbers."""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if min(self._sizes, default=0) < 1:
            raise ValueError(f"got patch_size {self.patch_size!r}, expected 1 or more")
        removal.check_absence(self.baseline)
        if self.compat == "quantus":
            removal.check_quantus_absence(self.baseline)

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse patches that the samples do not have, and what cannot be removed."""
        removal.check(network, shape, self.output_space, self.baseline)
        self._patches(shape)

    def prepare(self, case: Case) -> Case:
        """Share the baseline, the patches, and the outputs before and after all are removed."""
        # black and white are those of all channels in Quantus
        by_pixel = self.compat is None
        return self._shared(case, removal.absent(case.network_trace(), self.baseline, by_pixel))

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (self.patch_size,) if isinstance(self.patch_size, int) else tuple(self.patch_size)

    def _labels(self, trace: Trace) -> Labels:
        return self._patches(tuple(trace.inputs.shape[1:]))

    def _patches(self, shape: tuple[int, ...]) -> Labels:
        if self.compat is None:
            return Patches(self._sizes).labels(shape, None)
        return _padded_patches(shape, self._sizes)


@register("region_perturbation")
@dataclass(frozen=True)
class RegionPerturbation(PatchMetric):
    r"""Fall of the output while patches are removed (Samek et al. 2017, arXiv:1509.06321).

    With the output f of the target, the sample :math:`x^{(0)}` and the patches of greatest
    relevance removed one after the other, ``curve`` is :math:`f(x^{(0)}) - f(x^{(k)})` for k from
    0 to L, and ``aopc`` the area over the perturbation curve,

    .. math:: \mathrm{AOPC} = \frac{1}{L + 1} \sum_{k=0}^{L} f(x^{(0)}) - f(x^{(k)}),

    at most 1 in probabilities. The paper averages it over the data set, replaces patches by random
    numbers (``baseline: uniform``) and orders them by the sum of their relevance. Ties go row by
    row.
    """

    n_regions: int = 100
    """L, how many patches are removed; never more than there are."""
    order: Literal["morf", "lerf"] = "morf"
    """Most relevant first (a great fall is good) or least relevant first (a small one)."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's numbers. Patches that do not divide the side are cut off at both
    edges, black and white are those of all channels, the curve starts with the first patch
    removed, and ``auc`` is its trapezoid area with unit steps. Its order of ties is that of an
    unstable sort, which is not reproduced."""

    headline: ClassVar[str] = "aopc"

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        super().__post_init__()
        if self.n_regions < 1:
            raise ValueError(f"got n_regions {self.n_regions!r}, expected at least 1")

    @property
    def direction(self) -> Direction:
        """A great fall is good when the most relevant patches go first."""
        return "higher" if self.order == "morf" else "lower"

    @property
    def _descending(self) -> bool:
        return self.order == "morf"

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the number of patches that are removed."""
        n_removed = min(self.n_regions, self._patches(shape).counts[0])
        x = tuple(float(k) for k in range(0 if self.compat is None else 1, n_removed + 1))
        label = f"mean fall of the {self.output_space}"
        return (Curve("curve", x, "patches removed", label, "aopc", self.direction),)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``curve``, ``(batch, steps)``, and ``aopc``; with compat ``auc``, too."""
        exchange, n_patches = case.shared["exchange"], int(case.shared["counts"][0])
        places, is_finite = self._places(case, relevance)
        counts = torch.arange(min(self.n_regions, n_patches) + 1)
        fall = exchange.first[:, None] - exchange.curve(places, counts, n_patches)
        fall = fall.where(is_finite[:, None], torch.nan)
        if self.compat is None:
            return {"curve": fall, "aopc": fall.mean(dim=1)}
        after = fall[:, 1:]
        return {"curve": after, "aopc": fall.mean(dim=1), "auc": torch.trapezoid(after, dim=1)}


@register("selectivity")
@dataclass(frozen=True)
class Selectivity(PatchMetric):
    """Output while patches are removed, the most relevant first (Montavon et al. 2018).

    doi:10.1016/j.dsp.2017.10.011. ``curve`` starts with the output of the sample and ends with
    everything removed; ``auc`` is its trapezoid area over the share of patches removed, from 0 to
    1. Patches are ordered by the sum of their relevance in the map of the whole sample, ties row by
    row. The paper removes one patch a step.
    """

    n_steps: int | None = None
    """Steps from nothing to everything; 32 by default, never more than there are patches."""
    regions_in_step: int | None = None
    """Patches per step, instead of `n_steps`."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's numbers. Patches that do not divide the side are cut off at both
    edges, black and white are those of all channels, one patch goes a step by default, the curve
    starts with the first removed, and ``auc`` is its trapezoid area with unit steps. Its order of
    ties is that of an unstable sort, which is not reproduced."""

    headline: ClassVar[str] = "auc"

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        super().__post_init__()
        removal.check_steps(self.n_steps, self.regions_in_step, "regions_in_step")

    @property
    def direction(self) -> Direction:
        """A low curve is good."""
        return "lower"

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the share of patches that are removed."""
        n_patches = self._patches(shape).counts[0]
        x = tuple((self._counts(n_patches) / n_patches).tolist())
        label = f"mean {self.output_space}"
        return (Curve("curve", x, "share of patches removed", label, "auc", "lower"),)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``curve``, ``(batch, steps)``, and ``auc``."""
        n_patches = int(case.shared["counts"][0])
        places, is_finite = self._places(case, relevance)
        counts = self._counts(n_patches)
        curve = case.shared["exchange"].curve(places, counts, n_patches)
        curve = curve.where(is_finite[:, None], torch.nan)
        if self.compat == "quantus":
            return {"curve": curve, "auc": torch.trapezoid(curve, dim=1)}
        share = counts.to(curve) / n_patches
        return {"curve": curve, "auc": torch.trapezoid(curve, share, dim=1)}

    def _counts(self, n_patches: int) -> Tensor:
        """Return how many patches are gone at each point of the curve, ``(steps,)``."""
        if self.compat is None:
            return removal.counts_from_none(n_patches, self.n_steps, self.regions_in_step)
        one_each = self.n_steps is None and self.regions_in_step is None
        return removal.counts(n_patches, self.n_steps, 1 if one_each else self.regions_in_step)


def _padded_patches(shape: tuple[int, ...], sizes: tuple[int, ...]) -> Labels:
    """Return the patches of an image that was padded at both ends, the far one by more."""
    if len(shape) != 3 or len(set(sizes)) != 1:
        raise ValueError(
            f"got samples of shape {shape} and patch_size {list(sizes)} with compat 'quantus', "
            "expected images (channels, height, width) and square patches"
        )
    cells, n_cells = torch.zeros(1, 1, 1, 1, dtype=torch.int64), 1
    for axis, n in ((2, shape[1]), (3, shape[2])):
        before = -n % sizes[0] // 2
        along = (torch.arange(n) + before) // sizes[0]
        n_along = int(along[-1]) + 1
        cells = cells * n_along + along.view(*(-1 if k == axis else 1 for k in range(4)))
        n_cells *= n_along
    return Labels(cells, (n_cells,))
