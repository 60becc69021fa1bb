"""Whether the map of another class is another map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers import Target
from explainers.sampling import counted
from pipeline.metrics import similarity
from pipeline.metrics.again import ExplainingAgain, State, Variant
from pipeline.metrics.metric import Direction, register
from pipeline.metrics.randomised import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers import Trace
    from explainers.network import Network
    from pipeline.metrics.metric import Case


@register("random_logit")
@dataclass(frozen=True)
class RandomLogit(ExplainingAgain):
    r"""How alike the maps of what was explained and of another class are.

    Sixt, Granz & Landgraf 2020 (arXiv:1912.09818):

    .. math:: \mathrm{SSIM}\big(\Phi(x, y), \Phi(x, y')\big)

    with a class y' that is drawn from all others, evenly. Maps of images are compared as pictures,
    relevance summed over channels; each map is divided by its greatest magnitude. From -1 to 1: a
    method that does not look at the class scores 1. The class follows from seed and sample and is
    the same for all explainers; the number of classes is that of the network's outputs. Where a
    weighting of outputs was explained, y' is an output without weight; if there is none, the sample
    has no score, nor has a map that is one value everywhere. Where only that of the other class is,
    correlations are 0, and structural similarity is high where the sample's own is mostly zeros.

    It takes one explanation of each sample; the forward pass is that of the sample itself.
    """

    similarity: similarity.Similarity = "ssim"
    """``ssim``: structural similarity; ``spearman``: rank correlation; ``pearson``: correlation."""
    absolute: bool = False
    """Whether maps are compared by magnitude, without signs."""
    compat: Literal["quantus"] | None = None
    """``quantus``: maps are compared as rows of all their values, as Quantus 0.6 does, and not as
    pictures; its classes follow from the place in the batch, ours from the sample."""

    family: ClassVar[str] = "randomisation"
    headline: ClassVar[str] = "similarity"

    @property
    def direction(self) -> Direction:
        """Maps of another class should be others."""
        return "lower"

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse a network that has no other class."""
        if network is not None:
            self._check_outputs(network.n_outputs)

    def variants(self, case: Case) -> Iterator[Variant]:
        """Yield the batch with another target."""
        trace = case.network_trace()
        self._check_outputs(trace.output.shape[1])
        classes, _ = others(trace, case.target)
        rows = torch.arange(trace.n_rows, device=trace.inputs.device)
        yield Variant(trace, Target("index", classes), rows)

    def begun(self, case: Case, relevance: Tensor) -> State:
        """Return nothing."""
        return {}

    def compared(
        self, case: Case, relevance: Tensor, state: State, variant: Variant, again: Tensor
    ) -> State:
        """Return how alike both maps are."""
        _, is_another = others(variant.trace, case.target)
        own = self._prepared(case, relevance)
        found = similarity.alike(self.similarity, own, self._prepared(case, again))
        known = finite(relevance) & finite(again) & is_another & similarity.varies(own)
        return {"similarity": found.where(known, torch.nan)}

    def concluded(self, case: Case, relevance: Tensor, state: State) -> dict[str, Tensor]:
        """Return the similarity, float64."""
        return dict(state)

    def _check_outputs(self, n_outputs: int) -> None:
        if n_outputs < 2:
            raise ValueError(
                f"got a network with one output, expected at least two: {self.name} explains "
                "another class"
            )

    def _prepared(self, case: Case, relevance: Tensor) -> Tensor:
        inputs = case.network_trace().inputs
        maps = similarity.maps(relevance, inputs, by_value=self.compat is not None)
        return similarity.prepared(self.similarity, maps.abs() if self.absolute else maps)


def others(trace: Trace, target: Target) -> tuple[Tensor, Tensor]:
    """Return an output that was not explained, ``(batch,)``, and whether there is one.

    Parameters
    ----------
    trace
        The samples; its randomness is what draws.
    target
        What was explained.
    """
    is_other = trace.cotangent(target) == 0
    index = trace.who().index.to(is_other.device)
    seeds = counted.word(torch.full_like(index, trace.shared_seed("other class")), index)
    drawn = counted.uniform(seeds, 1, torch.float32)[:, 0]  # [0, 1)
    n_others = is_other.sum(dim=1)
    place = (drawn * n_others).long()  # of it among the others
    chosen = is_other & (is_other.cumsum(dim=1) == place[:, None] + 1)
    return chosen.int().argmax(dim=1), n_others > 0
