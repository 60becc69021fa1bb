"""Whether maps change when weights become random, averaged over noisy copies of the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import numeric
from pipeline.metrics import similarity
from pipeline.metrics.again import State, Variant, fixed_at
from pipeline.metrics.metric import register
from pipeline.metrics.randomised import AlongLayers, finite, trace_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers import Trace
    from pipeline.metrics.metric import Case

_ROWS_TOGETHER = 64
"""Rows of a variant, where a batch has fewer: several draws of its samples go together."""


@register("smooth_mprt")
@dataclass(frozen=True)
class SmoothMPRT(AlongLayers):
    r"""Model parameter randomisation test of maps that are averaged over noisy inputs.

    Hedström et al. 2023 (arXiv:2401.06465): the test of `mprt` with

    .. math:: \bar\Phi(x; f) = \frac{1}{N} \sum_{n=1}^N \Phi(x + u_n; f), \quad
        u_n \sim \mathcal{N}(0, \sigma^2), \quad \sigma = r (\max x - \min x)

    for the map of the trained and of each randomised network, so that what is compared is not the
    shattering of gradients. Networks and explainers share the noise, which follows from seed,
    sample and draw. The stored map itself is not used, but one that is not finite has no score, nor
    has a sample whose smoothed map is one value everywhere.

    It takes N explanations of each sample per step, and N of the trained network.
    """

    n_draws: int = 50
    """Noisy copies of each sample, N."""
    noise: float = 0.1
    """Standard deviation of the noise as a share of the range of the sample's values, r."""

    def __post_init__(self) -> None:
        """Refuse to draw nothing, and noise that is less than none."""
        super().__post_init__()
        numeric.check_whole("n_draws", self.n_draws)
        numeric.check_finite("noise", self.noise)
        if self.noise < 0:
            raise ValueError(f"got noise {self.noise!r}, expected at least 0")

    def variants(self, case: Case) -> Iterator[Variant]:
        """Yield noisy copies in the trained network, then in each of the others."""
        trace = case.network_trace()
        if not trace.inputs.is_floating_point():
            raise TypeError(
                f"got inputs of {trace.inputs.dtype}, expected floating-point numbers: "
                f"{self.name} adds noise to them"
            )
        low, high = trace.inputs.flatten(1).aminmax(dim=1)
        stdev = (self.noise * (high - low)).view(-1, *[1] * (trace.inputs.ndim - 1))
        every = torch.arange(trace.n_rows, device=trace.inputs.device)
        together = max(1, _ROWS_TOGETHER // max(1, trace.n_rows))
        traces = [trace, *(trace_in(trace, step.network) for step in self.steps(case))]
        for in_network in traces:
            for first in range(0, self.n_draws, together):
                draws = range(first, min(first + together, self.n_draws))
                noisy = torch.cat([trace.inputs + stdev * self._drawn(trace, n) for n in draws])
                rows = every.repeat(len(draws))
                target = fixed_at(trace, case.target, rows)
                is_last = draws.stop == self.n_draws
                yield Variant(in_network.at(noisy, rows), target, rows, is_last)

    def begun(self, case: Case, relevance: Tensor) -> State:
        """Return sums of nothing."""
        zero = torch.zeros_like(relevance, dtype=torch.float64)
        return {"sum": zero, "similarity": zero.new_empty(len(zero), 0)}

    def compared(
        self, case: Case, relevance: Tensor, state: State, variant: Variant, again: Tensor
    ) -> State:
        """Return the sum of maps with further ones; after the last of a network, the curve."""
        total = state["sum"] + again.double().view(-1, *relevance.shape).sum(0)
        if not variant.key:
            return {**state, "sum": total}
        prepared = self.prepared(case, total / self.n_draws)
        state = {**state, "sum": torch.zeros_like(total)}
        if "trained" not in state:
            known = finite(relevance) & finite(total) & similarity.varies(prepared)
            return {**state, "trained": prepared, "known": known}
        return self.with_step(state, prepared, state["known"] & finite(total))

    def _drawn(self, trace: Trace, draw: int) -> Tensor:
        """Return normal numbers, shaped as the inputs."""
        if self.compat == "quantus" and draw == self.n_draws - 1:
            return torch.zeros_like(trace.inputs)
        return trace.noise(f"draw {draw}", trace.inputs.shape[1:])
