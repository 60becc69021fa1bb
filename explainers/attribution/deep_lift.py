"""DeepLIFT: differences to a reference, handed back by the slopes between the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch

from explainers import baselines, numeric
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.reference import check as check_baseline
from explainers.rules.rescale import Contrast, MaxPoolRule, Rescaling, rescale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("deep_lift")
@dataclass(frozen=True)
class DeepLift(Attribution):
    """Difference to a baseline times its multiplier by the Rescale rule (Shrikumar et al. 2017).

    ``(x - b) * m``, arXiv:1704.02685, in the form of a gradient in which every activation has the
    slope between reference and sample (Ancona et al. 2018, arXiv:1711.06104); see
    `explainers.rules.rescale` for products, norms and attention. The map sums to the difference of
    the target; the array ``convergence_delta`` is, for each sample, what it exceeds that by. Only
    ``maxpool="gradient"`` and roundings make it differ from zero.
    """

    baseline: baselines.Baseline = None
    """None (zero), a number, one a channel; `min`, `max` or `mean` of the sample itself;
    `data_mean`; `{blur: sigma}` or `{noise: stdev}`; in the library also a tensor."""
    maxpool: MaxPoolRule = "rescale"
    """`rescale` hands on what the maxima differ by, as Captum, which drops the rule where a ReLU
    stands directly before the max-pool; `gradient` is DeepExplain's."""
    eps: float = 1e-10
    """Differences up to this size have the slope of the function between the two values."""
    multiply_by_inputs: bool = True
    """Whether multipliers are multiplied by the difference to the baseline."""
    statistics: baselines.Statistics = field(default=None, kw_only=True)
    """For the baseline `data_mean`: the result of the scan `moments`."""

    cost = Cost(forward=2, backward=1)
    requires = frozenset({"rescale"})
    needs: ClassVar[Mapping[str, str]] = {"statistics": "moments"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepexplain": {"maxpool": "gradient", "eps": 1e-5}
    }

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return statistics where the baseline is the mean of the data set."""
        return baselines.needs_of(parameters)

    def __post_init__(self) -> None:
        check_parameters(self.maxpool, self.eps)

    def check(self, network: Network) -> None:
        """Refuse operators that have no rule, and a baseline that does not fit the inputs."""
        rescale.check(network)
        check_baseline(self.baseline, network, self.statistics)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map and its ``convergence_delta``, ``(batch,)``."""
        reference = trace.reference(baselines.settled(self.baseline, self.statistics))
        rules = rules_between(trace, reference, maxpool=self.maxpool, eps=self.eps)
        # traces are equal only to themselves, so other references cannot be mistaken for this one
        key = ("rescale", self.maxpool, self.eps, reference)
        multipliers = trace.backward(rules, target, key=key)
        contributions = (trace.inputs - reference.inputs) * multipliers
        delta = contributions.flatten(1).sum(1) - change(trace, target, reference)
        chosen = contributions if self.multiply_by_inputs else multipliers
        return Explained(chosen, {"convergence_delta": delta})


def check_parameters(maxpool: str, eps: float) -> None:
    """Refuse a rule for max-pools that there is not, and a threshold that is no number.

    Raises
    ------
    TypeError
        If the threshold is no real number.
    ValueError
        If there is no such rule, or the threshold is negative or infinite.
    """
    if maxpool not in get_args(MaxPoolRule):
        raise ValueError(f"got maxpool {maxpool!r}, expected 'rescale' or 'gradient'")
    numeric.check_finite("eps", eps)


def rules_between(trace: Trace, reference: Trace, *, maxpool: MaxPoolRule, eps: float) -> Rescaling:
    """Return the rules between a reference, of one row or as many as the batch has, and samples."""
    values = _spread(reference, trace).values
    return Rescaling(Contrast(values, trace.network.dependent, eps), maxpool)


def change(trace: Trace, target: Target, reference: Trace) -> Tensor:
    """Return how much larger the target is than at the reference, ``(batch,)``.

    Its class is that of the sample at the reference too.
    """
    return trace.selected(target) - (reference.output * trace.cotangent(target)).sum(1)


def _spread(reference: Trace, trace: Trace) -> Trace:
    """Return the reference with as many rows as the batch, where one row does not broadcast.

    Values whose first axis is made of rows and something else (windows of Swin) do not.
    """
    fits = all(
        _broadcasts(reference.values[name], trace.values[name]) for name in trace.network.dependent
    )
    if fits:
        return reference
    n_rows = len(trace.inputs)
    repeated = reference.inputs.expand(n_rows, *reference.inputs.shape[1:])
    return reference.at(repeated, torch.zeros(n_rows, dtype=torch.int64))


def _broadcasts(row: Tensor, value: Tensor) -> bool:
    return row.ndim == value.ndim and all(
        size in (1, wanted) for size, wanted in zip(row.shape, value.shape, strict=True)
    )
