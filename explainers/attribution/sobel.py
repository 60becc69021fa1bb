"""Edges: the control that looks like an explanation and knows no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional

from explainers.base import Attribution, Cost
from explainers.catalogue import register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


@register("sobel")
@dataclass(frozen=True)
class Sobel(Attribution):
    """Steepness of the image, which knows no network: a control for metrics.

    Sum over channels of ``sqrt(G_y^2 + G_x^2)``, ``G`` being the image's correlation with the
    kernels ``[1 2 1]^T [-1 0 1]`` and its transpose (Sobel and Feldman 1968), the image continued
    by its border. Maps that look like edges can owe that to the input alone (Adebayo et al. 2018,
    arXiv:1810.03292).
    """

    cost = Cost()
    tasks = frozenset({"image"})

    def dims(self, input_shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return height and width: the channels are summed."""
        return ("height", "width")

    def check(self, network: Network) -> None:
        """Refuse inputs that are not images."""
        if len(network.input_shape) != 3:
            raise ValueError(
                f"sobel finds the edges of images, got inputs of shape (batch, "
                f"{', '.join(map(str, network.input_shape))}), expected (batch, channels, height, "
                "width); use random as the control"
            )

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the steepness, ``(batch, height, width)``."""
        self.check(trace.network)
        image = functional.pad(trace.inputs, (1, 1, 1, 1), mode="replicate")
        smooth_down = image[:, :, :-2] + 2 * image[:, :, 1:-1] + image[:, :, 2:]
        smooth_across = image[..., :-2] + 2 * image[..., 1:-1] + image[..., 2:]
        across = smooth_down[..., 2:] - smooth_down[..., :-2]
        down = smooth_across[:, :, 2:] - smooth_across[:, :, :-2]
        return (across.square() + down.square()).sqrt().sum(1)
