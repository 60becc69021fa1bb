"""Noise: the control that any explanation has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.base import Attribution, Cost
from explainers.catalogue import register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace


@register("random")
@dataclass(frozen=True)
class Random(Attribution):
    """Standard normal numbers that know neither network nor input: a control for metrics.

    A metric that prefers a method to this one no more often than chance says nothing about it
    (Adebayo et al. 2018, arXiv:1810.03292, ask the same of maps). Each sample has numbers of its
    own, the same in every batch and for every target.
    """

    cost = Cost()
    stochastic = True

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the numbers, shaped as the inputs."""
        return trace.noise("random", trace.inputs.shape[1:])
