"""The gradient averaged along a straight path from a baseline."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING

import torch

from explainers import baselines, numeric
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.postprocess import Postprocess, apply, check_name
from explainers.quadratures import Quadrature, nodes_and_weights
from explainers.targets import Target

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.trace import Trace

_CHUNK_ELEMENTS_OF_A_CPU = 2**19
"""Input values per pass: some 670 digits or 3 photographs. LeNet and ResNet18 were fastest between
2**18 and 2**20; far smaller chunks cost a fifth more, all steps in one batch twice as much."""

_CHUNK_ELEMENTS_OF_AN_ACCELERATOR = 2**23
"""About 55 photographs; ResNet-50 then needs some 5 GB."""


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
    baseline: float | tuple[float, ...] | None = None
    """None (zero), a number, one a channel; in the library also a tensor: `baselines.resolve`."""
    multiply_by_inputs: bool = True
    """Whether the mean gradient is multiplied by the difference to the baseline."""
    postprocess: Postprocess = "none"
    """What is done to the map; the convergence delta is of the map before it."""
    # a run file cannot say it: there, `method` is the explainer's
    method: InitVar[Quadrature | None] = None

    requires = frozenset({"gradient"})

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
        if not isinstance(self.baseline, torch.Tensor):
            baselines.resolve(self.baseline, torch.zeros(1, *network.input_shape))

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map and its ``convergence_delta``, ``(batch,)``."""
        baseline = baselines.resolve(self.baseline, trace.inputs)
        difference = trace.inputs - baseline
        weights = trace.cotangent(target)
        mean_gradient = self._mean_gradient(trace, baseline, difference, weights)
        relevance = mean_gradient * difference
        start = (trace.network(baseline) * weights).sum(1)
        delta = relevance.flatten(1).sum(1) - (trace.selected(target) - start)
        chosen = relevance if self.multiply_by_inputs else mean_gradient
        return Explained(apply(self.postprocess, chosen), {"convergence_delta": delta})

    def _mean_gradient(
        self, trace: Trace, baseline: Tensor, difference: Tensor, weights: Tensor
    ) -> Tensor:
        nodes, counts = nodes_and_weights(self.quadrature, self.n_steps)
        n_rows = len(difference)
        n_together = max(1, _chunk_elements(difference) // max(1, difference.numel()))
        mean = torch.zeros_like(difference)
        for first in range(0, self.n_steps, n_together):
            chunk = nodes[first : first + n_together]
            points = torch.cat([baseline + node * difference for node in chunk])
            rows = torch.arange(n_rows, device=points.device).repeat(len(chunk))
            gradients = trace.at(points, rows).gradient(Target("weights", weights[rows]))
            steps = gradients.view(len(chunk), *difference.shape)
            for gradient, count in zip(steps, counts[first : first + n_together], strict=True):
                mean.add_(gradient, alpha=count)
        return mean


def _chunk_elements(inputs: Tensor) -> int:
    is_cpu = inputs.device.type == "cpu"
    return _CHUNK_ELEMENTS_OF_A_CPU if is_cpu else _CHUNK_ELEMENTS_OF_AN_ACCELERATOR
