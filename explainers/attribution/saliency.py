"""The size of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.base import Attribution, Cost
from explainers.catalogue import register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace


@register("saliency")
@dataclass(frozen=True)
class Saliency(Attribution):
    """Absolute gradient of the target with respect to the input (Simonyan et al. 2013).

    arXiv:1312.6034.
    """

    cost = Cost(forward=1, backward=1)
    requires = frozenset({"gradient"})

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the absolute gradient."""
        return trace.gradient(target).abs()
