"""The gradient averaged along a straight path from a baseline."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers import baselines, numeric
from explainers.affine_start import affine_end
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.postprocess import Postprocess, apply, check_name
from explainers.quadratures import Quadrature, nodes_and_weights
from explainers.reference import check as check_baseline
from explainers.sampling import chunks
from explainers.targets import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.network import Network
    from explainers.trace import Trace


@register("integrated_gradients")
@dataclass(frozen=True)
class IntegratedGradients(Attribution):
    """Input minus baseline, times the mean gradient on the way (Sundararajan et al. 2017).

    ``(x - b) * integral over a in [0, 1] of d target / d x at b + a (x - b)``, arXiv:1703.01365.
    The class that is explained is that of the sample itself at all points of the path. The array
    ``convergence_delta`` is, for each sample, what the sum of the map exceeds
    ``target(x) - target(b)`` by.
    """

    n_steps: int = 50
    """Gradients per sample."""
    quadrature: Quadrature = "gausslegendre"
    """How the integral is approximated; in the library also ``method``, which is Captum's word."""
    baseline: baselines.Baseline = None
    """None (zero), a number, one a channel; `min`, `max` or `mean` of the sample itself;
    `data_mean`; `{blur: sigma}` or `{noise: stdev}`; in the library also a tensor."""
    multiply_by_inputs: bool = True
    """Whether the mean gradient is multiplied by the difference to the baseline."""
    postprocess: Postprocess = "none"
    """What is done to the map; the convergence delta is of the map before it."""
    statistics: baselines.Statistics = field(default=None, kw_only=True)
    """For the baseline `data_mean`: the result of the scan `moments`."""
    # a run file cannot say it: there, `method` is the explainer's
    method: InitVar[Quadrature | None] = None

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepexplain": {"n_steps": 100, "quadrature": "riemann_right"},
        "innvestigate": {"n_steps": 64, "quadrature": "riemann_inclusive"},
        "zennit": {"n_steps": 20, "quadrature": "riemann_right"},
        "rde": {"n_steps": 64, "quadrature": "riemann_inclusive", "baseline": "min"},
    }
    requires = frozenset({"gradient"})
    needs: ClassVar[Mapping[str, str]] = {"statistics": "moments"}

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return statistics where the baseline is the mean of the data set."""
        return baselines.needs_of(parameters)

    def __post_init__(self, method: Quadrature | None) -> None:
        if method is not None:
            object.__setattr__(self, "quadrature", method)
        check_name(self.postprocess)
        numeric.check_whole("n_steps", self.n_steps)
        nodes_and_weights(self.quadrature, self.n_steps)

    @property
    def cost(self) -> Cost:
        """A forward and a backward a step, and a forward each of sample and baseline."""
        return Cost(forward=self.n_steps + 2, backward=self.n_steps)

    def check(self, network: Network) -> None:
        """Refuse a baseline that does not fit the inputs, unless it has rows of its own."""
        check_baseline(self.baseline, network, self.statistics)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map and its ``convergence_delta``, ``(batch,)``."""
        reference = trace.reference(baselines.settled(self.baseline, self.statistics))
        weights = trace.cotangent(target)
        mean_gradient = self._mean_gradient(trace, reference, weights)
        relevance = mean_gradient * (trace.inputs - reference.inputs)
        rise = trace.selected(target) - (reference.output * weights).sum(1)
        delta = relevance.flatten(1).sum(1) - rise
        chosen = relevance if self.multiply_by_inputs else mean_gradient
        return Explained(apply(self.postprocess, chosen), {"convergence_delta": delta})

    def _mean_gradient(self, trace: Trace, reference: Trace, weights: Tensor) -> Tensor:
        layer = affine_end(trace.network)
        if layer is None:
            return self._mean_on_path(trace, reference.inputs, weights, trace.inputs)
        behind = trace.starting_at(layer)
        mean = self._mean_on_path(behind, reference.layer(layer), weights, trace.inputs)
        before, _ = trace.ending_at(Target("unit", 0, layer))
        return before.gradient(Target("weights", mean.flatten(1)))

    def _mean_on_path(
        self, trace: Trace, baseline: Tensor, weights: Tensor, counted: Tensor
    ) -> Tensor:
        """Return the mean gradient between two inputs; `counted` says how many rows fit a pass."""
        inputs = trace.inputs
        nodes, weights_of_nodes = nodes_and_weights(self.quadrature, self.n_steps)
        counts = torch.tensor(weights_of_nodes, dtype=torch.float64).to(inputs)
        every = torch.arange(len(inputs), device=inputs.device)
        mean = torch.zeros(inputs.shape).to(inputs)
        for rows in chunks.row_pieces(counted):
            start = baseline if len(baseline) == 1 else baseline[rows]
            difference = inputs[rows] - start
            flat = mean[rows].view(-1)
            for steps in chunks.repeat_pieces(counted, len(difference), self.n_steps):
                points = _points(start, difference, nodes[steps])
                here = every[rows].repeat(len(nodes[steps]))
                gradients = trace.at(points, here).gradient(Target("weights", weights[here]))
                flat.addmv_(gradients.reshape(len(nodes[steps]), -1).T, counts[steps])
        return mean


def _points(start: Tensor, difference: Tensor, nodes: Sequence[float]) -> Tensor:
    """Return the points of the path at some nodes, node after node, laid out as the difference."""
    is_last = difference.ndim == 4 and difference.is_contiguous(memory_format=torch.channels_last)
    points = torch.empty(
        (len(nodes) * len(difference), *difference.shape[1:]),
        dtype=difference.dtype,
        device=difference.device,
        memory_format=torch.channels_last if is_last else torch.contiguous_format,
    )
    for node, part in zip(nodes, torch.split(points, len(difference)), strict=True):
        torch.add(start, difference, alpha=node, out=part)
    return points
