"""Whether each feature's relevance is what the output loses without it alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pipeline.metrics import removal, subsets
from pipeline.metrics.correlation import pearson
from pipeline.metrics.metric import Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from pipeline.metrics.metric import Case
    from pipeline.metrics.subsets import Removal

_MOST_BLOCKS = 1024


@register("faithfulness_estimate")
@dataclass(frozen=True)
class FaithfulnessEstimate(Metric):
    r"""Correlation of relevance and drop of the output, feature by feature.

    Alvarez-Melis and Jaakkola 2018 (arXiv:1806.07538). Features are removed each alone, the others
    stay:

    .. math:: \rho = \mathrm{corr}_i \big( r_i,\; f(x) - f(x_{i \to b}) \big),

    Pearson's, from -1 to 1. In images a feature is a pixel: its channels go together, and its
    relevance is their sum. The score does not depend on the map's scale. Of inputs with many
    features, blocks of them go together that follow each other in the order of relevance, and
    their relevance is added up.

    Blocks of one feature are the same for every map: their forward passes, one for each feature,
    are made once for all explainers. Larger blocks take ``n_steps`` passes for each map. A map
    whose blocks are all alike, such as one of zeros, and an output that nothing changes, correlate
    with nothing: NaN, which aggregates count as undefined.
    """

    n_steps: int | None = None
    """Blocks of nearly equal size; 1024 by default, never more than there are features."""
    features_in_step: int | None = None
    """Features in a block, instead of `n_steps`."""
    baseline: removal.Absence = "black"
    """What a removed feature becomes: a number, ``black``, ``white``, ``mean``, ``uniform`` or
    ``{blur: sigma}``, as for `pixel_flipping`."""
    output_space: Literal["probability", "logit"] | None = None
    """What is measured: probabilities as in the paper, but logits with `compat`."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition. Every channel value is a feature of its own, a sum
    over channels stands for each of them, blocks have one feature by default, logits are measured
    by default, and black is the least value of the sample. Its order of ties is that of an
    unstable sort, which matters in blocks of several and is not reproduced."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "faithfulness_estimate"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        removal.check_steps(self.n_steps, self.features_in_step)
        removal.check_absence(self.baseline)

    @property
    def direction(self) -> Direction:
        """Relevance should say what is lost."""
        return "higher"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space or ("logit" if self.compat else "probability")

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what cannot be removed, and probabilities of one output."""
        removal.check(network, shape, self.space, self.baseline)

    def prepare(self, case: Case) -> Case:
        """Share what the output loses without each feature, where blocks have one."""
        trace = case.network_trace()
        removing = subsets.removing(
            trace,
            trace.cotangent(case.target),
            self.baseline,
            self.space,
            by_pixel=self._by_pixel,
        )
        drops = None
        if self._are_single(removing.n_features):
            each = torch.arange(removing.n_features, device=trace.inputs.device)
            drops = _drops(removing, each.expand(trace.n_rows, -1), each + 1)
        return case.sharing(removing=removing, drops=drops)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return the correlation, float64."""
        removing: Removal = case.shared["removing"]
        per_feature = removal.relevance_of_features(
            relevance.double(), case.network_trace().inputs, by_pixel=self._by_pixel
        )
        drops, sums = case.shared["drops"], per_feature
        if drops is None:
            ranks = removal.ranks(per_feature, descending=True)
            counts = self._counts(removing.n_features).to(ranks.device)
            drops = _drops(removing, ranks, counts)
            block = torch.bucketize(ranks, counts, right=True)
            sums = per_feature.new_zeros(drops.shape).scatter_add_(1, block, per_feature)
        found, _ = pearson(sums, drops, per_feature.abs().amax(dim=1), removing.scale)
        finite = per_feature.isfinite().all(dim=1)
        return {"faithfulness_estimate": found.where(finite, math.nan)}

    @property
    def _by_pixel(self) -> bool:
        return self.compat is None

    def _counts(self, n_features: int) -> Tensor:
        if self.n_steps is None and self.features_in_step is None:
            n_steps = n_features if self.compat else _MOST_BLOCKS
            return removal.counts(n_features, n_steps, None)
        return removal.counts(n_features, self.n_steps, self.features_in_step)

    def _are_single(self, n_features: int) -> bool:
        return len(self._counts(n_features)) == n_features


def _drops(removing: Removal, ranks: Tensor, counts: Tensor) -> Tensor:
    """Return what the output loses without each block of places, ``(batch, blocks)``.

    Parameters
    ----------
    removing
        Of what.
    ranks
        Place of each feature in the order in which blocks follow, ``(batch, features)``.
    counts
        Place behind the last of each block, ``(blocks,)``.
    """
    n_rows, n_blocks = len(ranks) * len(counts), len(counts)
    first = torch.cat([counts.new_zeros(1), counts[:-1]])
    limit = removal.rows_at_once(removing.trace.inputs)
    found = []
    for start in range(0, n_rows, limit):
        row = torch.arange(start, min(start + limit, n_rows), device=ranks.device)
        sample, block = row // n_blocks, row % n_blocks
        place = ranks[sample]  # (rows, features)
        gone = (place >= first[block][:, None]) & (place < counts[block][:, None])
        found.append(removing.drops(sample, gone))
    return torch.cat([removing.clean.new_empty(0), *found]).view(-1, n_blocks)
