"""The variance of a method's maps over noisy copies of the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.catalogue import register
from explainers.sampling.noisy import Noisy

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace


@register("var_grad")
@dataclass(frozen=True)
class VarGrad(Noisy):
    """Variance of the maps of noisy copies of the sample (Adebayo et al. 2018, arXiv:1810.03292).

    ``1 / n * sum_k (map(x + noise_k) - mean)^2``; the map is the gradient unless another method is
    named. Sums of squares are taken around the mean, so that nothing cancels.
    """

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the variance, which divides by the number of copies."""
        return self.spread(trace, target)[1]
