"""Guided backpropagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.base import Attribution, Cost
from explainers.catalogue import register
from explainers.postprocess import Postprocess, apply, check_name
from explainers.rules.rectified import guided

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("guided_backprop")
@dataclass(frozen=True)
class GuidedBackprop(Attribution):
    """Gradient that lets only positive values back through ReLUs (Springenberg et al. 2014).

    arXiv:1412.6806. For networks whose activations are ReLUs; see `explainers.rules.rectified`.
    """

    postprocess: Postprocess = "none"
    """What is done to the map."""

    cost = Cost(forward=1, backward=1)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "innvestigate": {},
        "zennit": {},
        "rde": {},
    }
    requires = frozenset({"guided"})

    def __post_init__(self) -> None:
        check_name(self.postprocess)

    def check(self, network: Network) -> None:
        """Refuse what is not a program, and activations that are no ReLUs."""
        guided.check(network)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return what the target's weights become on their way back."""
        return apply(self.postprocess, trace.backward(guided.find, target, key="guided"))
