"""Whether maps change when the network's weights become random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.metrics import similarity
from pipeline.metrics.again import State, Variant, fixed
from pipeline.metrics.metric import register
from pipeline.metrics.randomised import AlongLayers, finite, trace_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipeline.metrics.metric import Case


@register("mprt")
@dataclass(frozen=True)
class MPRT(AlongLayers):
    r"""Model parameter randomisation test: how alike maps stay when layers become random.

    Sanity checks of Adebayo et al. 2018 (arXiv:1810.03292). Layers get random weights one after the
    other, and with f_k, random in the first k of them,

    .. math:: s_k = \rho\big(|\Phi(x; f)|, |\Phi(x; f_k)|\big)

    with the rank correlation rho over pixels; both maps explain the same class. A method that
    explains the network must fall towards 0; one that finds the edges of the picture stays at 1.

    ``similarity``, ``(batch, steps)``, is the curve, from the first randomised layers on: the
    trained network itself, which would score 1, is not part of it. ``average`` is its mean,
    ``last`` its end, where every layer is random. A map that is not finite, or one value everywhere
    and so says nothing, has no score; where that of a randomised network is one value, correlations
    are 0.

    It takes one explanation of each sample per step. ``n_steps`` bounds them for deep networks:
    neighbouring layers then become random together. All explainers share networks and their forward
    passes; the networks together take as much memory as one more network.
    """

    def variants(self, case: Case) -> Iterator[Variant]:
        """Yield the batch in each network."""
        trace = case.network_trace()
        target = fixed(trace, case.target)
        rows = torch.arange(trace.n_rows, device=trace.inputs.device)
        for number, step in enumerate(self.steps(case)):
            yield Variant(trace_in(trace, step.network), target, rows, number)

    def begun(self, case: Case, relevance: Tensor) -> State:
        """Return what is compared of the maps."""
        trained = self.prepared(case, relevance)
        known = finite(relevance) & similarity.varies(trained)
        return {
            "trained": trained,
            "known": known,
            "similarity": trained.new_empty(len(trained), 0),
        }

    def compared(
        self, case: Case, relevance: Tensor, state: State, variant: Variant, again: Tensor
    ) -> State:
        """Return the curve with a further step."""
        return self.with_step(state, self.prepared(case, again), state["known"] & finite(again))
