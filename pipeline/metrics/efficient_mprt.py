"""Whether maps become more complex when all weights are random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from explainers import numeric
from pipeline.metrics.again import State, Variant, fixed
from pipeline.metrics.metric import Direction, register
from pipeline.metrics.randomised import InRandomised, finite, trace_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers import Trace
    from explainers.randomised import Randomisation
    from pipeline.metrics.metric import Case


@register("efficient_mprt")
@dataclass(frozen=True)
class EfficientMPRT(InRandomised):
    r"""Relative rise of a map's entropy when all weights become random.

    Hedström et al. 2023 (arXiv:2401.06465):

    .. math:: \frac{H(\Phi(x; f_{\text{random}})) - H(\Phi(x; f))}{H(\Phi(x; f))}

    with the entropy H, in nats, of the histogram of a map's values between its least and its
    greatest. A map of a network that knows nothing should be less ordered than one of the trained
    network: above 0. A method whose maps are of the picture stays at 0.

    ``rise`` is the score, ``entropy`` and ``random_entropy``, from 0 to the logarithm of `n_bins`,
    are what it is made of. A map that is one value everywhere has the entropy 0, and no rise is
    defined. It takes one explanation of each sample, in a network that all explainers share.
    """

    n_bins: int = 100
    """Bins of the histogram."""

    headline: ClassVar[str] = "rise"

    def __post_init__(self) -> None:
        """Refuse a histogram of nothing."""
        numeric.check_whole("n_bins", self.n_bins)

    @property
    def direction(self) -> Direction:
        """Maps that become more complex are better."""
        return "higher"

    def randomisation(self, trace: Trace) -> Randomisation:
        """Return that all layers are random at once."""
        return replace(super().randomisation(trace), n_steps=1)

    def variants(self, case: Case) -> Iterator[Variant]:
        """Yield the batch in the random network."""
        trace = case.network_trace()
        rows = torch.arange(trace.n_rows, device=trace.inputs.device)
        (step,) = self.steps(case)
        yield Variant(trace_in(trace, step.network), fixed(trace, case.target), rows)

    def begun(self, case: Case, relevance: Tensor) -> State:
        """Return the entropy of the maps."""
        return {"entropy": self._entropy(case, relevance)}

    def compared(
        self, case: Case, relevance: Tensor, state: State, variant: Variant, again: Tensor
    ) -> State:
        """Return that of the random network's maps too."""
        return {**state, "random_entropy": self._entropy(case, again)}

    def concluded(self, case: Case, relevance: Tensor, state: State) -> dict[str, Tensor]:
        """Return the relative rise and both entropies, float64."""
        entropy, random = state["entropy"], state["random_entropy"]
        rise = (random - entropy) / entropy.where(entropy > 0, torch.nan)
        return {"rise": rise, **state}

    def _entropy(self, case: Case, relevance: Tensor) -> Tensor:
        values = self.maps(case, relevance).flatten(1).double()
        is_finite = finite(relevance)
        entropy = histogram_entropy(values.where(is_finite[:, None], 0.0), self.n_bins)
        return entropy.where(is_finite, torch.nan)


def histogram_entropy(values: Tensor, n_bins: int) -> Tensor:
    """Return the entropy of the histogram of each row between its least and greatest value.

    Parameters
    ----------
    values
        ``(batch, features)``.
    n_bins
        Bins of equal width; a value between two is in the upper one, the greatest in the last.

    Returns
    -------
    Tensor
        In nats, ``(batch,)``.
    """
    low, high = values.aminmax(dim=1, keepdim=True)
    inner = torch.arange(1, n_bins, dtype=values.dtype, device=values.device)
    edges = low + inner * ((high - low) / n_bins)  # (batch, bins - 1)
    bins = torch.searchsorted(edges, values.contiguous(), right=True)
    bins = bins.masked_fill(low == high, 0)
    counts = values.new_zeros(len(values), n_bins).scatter_add_(1, bins, torch.ones_like(values))
    entropy: Tensor = torch.special.entr(counts / values.shape[1]).sum(dim=1)
    return entropy
