"""DeepLIFT averaged over baselines that are taken from the data."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers import backgrounds
from explainers.attribution.deep_lift import change, check_parameters, rules_between
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.rules.rescale import MaxPoolRule, rescale
from explainers.rules.walking import walk
from explainers.sampling.map_moments import MapMoments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

_USUAL_SIZE = 16
"""Rows of the scan `background` at its defaults: what the cost is told for before it has run."""


_ASKED = (
    "deep_lift_shap got no background; pass baselines=, tensors (n, ...), or "
    "background=explainers.scan(model, 'background', loader)"
)


@register("deep_lift_shap")
@dataclass(frozen=True)
class DeepLiftShap(Attribution):
    """Mean of DeepLIFT over a distribution of baselines (Lundberg and Lee 2017).

    ``mean over b of (x - b) * m(x, b)``, arXiv:1705.07874, with the multipliers of `deep_lift`. The
    samples' forward pass is shared by all baselines, each baseline is one row, and one baseline is
    walked back at a time, so that memory does not grow with their number. The array
    ``standard_error``, shaped like the map, is that of the mean, with the baselines as the draws;
    NaN for a single one. ``convergence_delta`` is, for each sample, what the sum of the map exceeds
    ``target(x) - mean target(b)`` by.
    """

    background: backgrounds.Background = None
    """Baselines ``(n, ...)``, or the result of the scan `background`; for several inputs a tuple or
    dict of such tensors, as the inputs are, and token ids for tokens. In the library also
    ``baselines``, which is Captum's word."""
    maxpool: MaxPoolRule = "rescale"
    """`rescale` hands on what the maxima differ by, as Captum, which drops the rule where a ReLU
    stands directly before the max-pool; `gradient` is DeepExplain's."""
    eps: float = 1e-10
    """Differences up to this size have the slope of the function between the two values."""
    multiply_by_inputs: bool = True
    """Whether multipliers are multiplied by the difference to their baseline."""
    # a run file cannot say it: there, the scan is what gives them
    baselines: InitVar[backgrounds.Background] = None

    requires = frozenset({"rescale"})
    needs: ClassVar[Mapping[str, str]] = {"background": "background"}

    def __post_init__(self, baselines: backgrounds.Background) -> None:
        if baselines is not None:
            object.__setattr__(self, "background", baselines)
        check_parameters(self.maxpool, self.eps)

    @property
    def cost(self) -> Cost:
        """A forward of the sample, and a backward a baseline; their forwards are of one row."""
        has_rows = self.background is not None
        n_baselines = len(self._rows) if has_rows else _USUAL_SIZE
        return Cost(forward=1, backward=n_baselines)

    def check(self, network: Network) -> None:
        """Refuse operators that have no rule, and a background that does not fit the inputs."""
        rescale.check(network)
        if self.background is not None:
            backgrounds.check(self.background, network, _ASKED)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, its ``standard_error`` and ``convergence_delta``, ``(batch,)``."""
        excess: list[Tensor] = []
        moments = MapMoments.over(self._maps(trace, target, excess))
        delta = torch.stack(excess).mean(0)
        arrays = {"standard_error": moments.standard_error, "convergence_delta": delta}
        return Explained(moments.mean, arrays)

    @property
    def _rows(self) -> list[Any]:
        return backgrounds.rows(self.background, _ASKED)

    def _maps(self, trace: Trace, target: Target, excess: list[Tensor]) -> Iterator[Tensor]:
        """Yield the map of each baseline, adding by how much its sum exceeds the target's change.

        Neither references nor walks are remembered by the trace, or it would hold all of them.
        """
        start = trace.cotangent(target)
        for row in self._rows:
            reference = _reference(trace, row)
            rules = rules_between(trace, reference, maxpool=self.maxpool, eps=self.eps)
            with torch.no_grad():
                multipliers = walk(trace.network, trace.values, start, rules).relevance
            contributions = (trace.inputs - reference.inputs) * multipliers
            excess.append(contributions.flatten(1).sum(1) - change(trace, target, reference))
            yield (contributions if self.multiply_by_inputs else multipliers)[None]


def _reference(trace: Trace, row: Any) -> Trace:
    """Return the trace at one baseline, of one row unless the samples' rows bring values along."""
    baseline = trace.baseline(row)
    if trace.carried or len(baseline) > 1:
        return trace.at(baseline.expand_as(trace.inputs))
    return trace.at(baseline, torch.zeros(1, dtype=torch.int64))
