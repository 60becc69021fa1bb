"""Guided backpropagation where the class activation map is positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.attribution.grad_cam import GradCAM, Interpolation
from explainers.attribution.guided_backprop import GuidedBackprop
from explainers.base import Attribution, Cost
from explainers.catalogue import register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("guided_grad_cam")
@dataclass(frozen=True)
class GuidedGradCAM(Attribution):
    """Guided backpropagation times the positive part of Grad-CAM (Selvaraju et al. 2017).

    arXiv:1610.02391. Shaped as the input: the fine lines of the one where the other sees the class.
    """

    layer: str | None = None
    """Whose channels Grad-CAM weights; None chooses as it does, see ``grad_cam``."""
    interpolation: Interpolation = "nearest"
    """How the class activation map is enlarged."""

    cost = Cost(forward=1, backward=2)
    requires = frozenset({"gradient", "guided"})

    def __post_init__(self) -> None:
        GradCAM(layer=self.layer, interpolation=self.interpolation)

    @property
    def source_layer(self) -> None:
        """None: the map is of the input, and the layer is only passed on the way."""
        return

    def check(self, network: Network) -> None:
        """Refuse activations that are no ReLUs, and a network without such a layer."""
        GuidedBackprop().check(network)
        GradCAM(layer=self.layer).check(network)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the product, shaped as the inputs."""
        cam = GradCAM(layer=self.layer, interpolation=self.interpolation, relu_attributions=True)
        where = cam.relevance(trace, target)
        lines = GuidedBackprop().relevance(trace, target)
        return lines * (where[:, None] if where.ndim < lines.ndim else where)
