"""Noise: the control that any explanation has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers import numeric
from explainers.base import Attribution, Cost
from explainers.catalogue import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.targets import Target
    from explainers.trace import Trace


@register("random")
@dataclass(frozen=True)
class Random(Attribution):
    """Normal numbers that know neither network nor input: a control for metrics.

    A metric that prefers a method to this one no more often than chance says nothing about it
    (Adebayo et al. 2018, arXiv:1810.03292, ask the same of maps). Each sample has numbers of its
    own, the same in every batch and for every target. With `relative_stdev` or `is_added` they do
    know the input, though not the network.
    """

    stdev: float = 1.0
    """Standard deviation of the numbers."""
    relative_stdev: float | None = None
    """If set, the standard deviation is this times that of the sample's values, and `stdev` is not
    used."""
    is_added: bool = False
    """Whether the map is the sample plus the numbers, as in iNNvestigate."""

    cost = Cost()
    stochastic = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "innvestigate": {"is_added": True},
        "rde": {"relative_stdev": 2.0, "is_added": True},
    }

    def __post_init__(self) -> None:
        numeric.check_finite("stdev", self.stdev)
        if self.relative_stdev is not None:
            numeric.check_finite("relative_stdev", self.relative_stdev)

    @property
    def only_replaces(self) -> bool:
        """Whether the numbers know nothing of the input, which may then be of any kind."""
        return self.relative_stdev is None and not self.is_added

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the numbers, shaped as the inputs."""
        inputs = trace.inputs
        numbers = trace.noise("random", inputs.shape[1:])
        if self.relative_stdev is None:
            numbers = self.stdev * numbers
        else:
            spread = inputs.flatten(1).std(1, correction=0)
            numbers *= self.relative_stdev * spread.view(-1, *[1] * (inputs.ndim - 1))
        return inputs + numbers if self.is_added else numbers
