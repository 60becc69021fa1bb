"""Class activation maps weighted by gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary

from torch.nn import functional

from explainers.base import Attribution, Cost
from explainers.catalogue import register
from explainers.cut import begun, unit_shape
from explainers.operators import Convolution

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Interpolation = Literal["bilinear", "nearest"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""What torch calls linear interpolation over so many axes."""


@register("grad_cam")
@dataclass(frozen=True)
class GradCAM(Attribution):
    """A layer's channels weighted by their mean gradients, enlarged to the input (Selvaraju 2017).

    arXiv:1610.02391. ``sum_c A_c * mean_p(dy / dA_cp)``, with ``A`` the layer's value and ``p`` its
    positions. For an image the map is ``(batch, height, width)``; for other inputs it is repeated
    over their channels. The layer's value is what its module returns, before an activation that
    follows.
    """

    layer: str | None = None
    """Whose channels are weighted: a convolution, or anything with channels and positions. None:
    where the last convolution's positions end, that is the last value with channels and as many
    positions as it (more than one), behind norms, sums, joins and activations: for ResNet18
    what leaves ``layer4``, for VGG16 the last ReLU before the last pool."""
    interpolation: Interpolation = "bilinear"
    """How the map is enlarged: linearly along each axis, or by repetition."""
    relu_attributions: bool = False
    """Whether negative values become zero before the map is enlarged, as in the paper."""

    cost = Cost(forward=1, backward=1)
    requires = frozenset({"gradient"})

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"got interpolation {self.interpolation!r}, expected 'bilinear' or 'nearest'"
            )

    @property
    def source_layer(self) -> None:
        """None: the map is of the input, and the layer is only passed on the way."""
        return

    def dims(self, input_shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return height and width for an image."""
        return ("height", "width") if len(input_shape) == 3 else super().dims(input_shape)

    def check(self, network: Network) -> None:
        """Refuse a network without such a layer, and a layer that the output does not need."""
        begun(network, (chosen(self.layer, network),))

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the weighted sum of the channels, as large as the input."""
        behind = trace.starting_at(chosen(self.layer, trace.network))
        value, slope = behind.inputs, behind.gradient(target)
        positions = tuple(range(2, value.ndim))
        weights = slope.mean(positions, keepdim=True)
        found = (weights * value).sum(1, keepdim=True)
        found = found.clamp(min=0) if self.relu_attributions else found
        mode = _LINEAR[len(positions)] if self.interpolation == "bilinear" else "nearest"
        enlarged = functional.interpolate(found, trace.inputs.shape[2:], mode=mode)
        return enlarged[:, 0] if value.ndim == 4 else enlarged.expand_as(trace.inputs)


def chosen(layer: str | None, network: Network) -> str:
    """Return the layer whose channels are weighted; see `GradCAM`.

    Raises
    ------
    LookupError
        If there is no layer of the name.
    ValueError
        If it, or for None any layer, has no channels and positions as the input has.
    """
    if layer is None:
        if network not in _last_of:
            _last_of[network] = _last(network)
        return _last_of[network]
    shape = unit_shape(network, layer)
    if not len(shape) == len(network.input_shape) >= 2:
        raise ValueError(
            f"grad_cam weights channels over positions, got layer {layer!r} of shape "
            f"{('batch', *shape)} for inputs of shape {('batch', *network.input_shape)}; name a "
            "convolution, or anything else with as many axes as the inputs"
        )
    return layer


_last_of: WeakKeyDictionary[Network, str] = WeakKeyDictionary()


def _last(network: Network) -> str:
    """Return the last value with the positions of the last convolution that has several."""
    program, n_axes = network._readable(), len(network.input_shape)
    positions = {
        name: layout.shape[1:]
        for name, layout in program.layouts.items()
        if name in program.dependent and layout.is_plain and len(layout.shape) == n_axes
    }
    of_convolutions = [
        positions[op.name]
        for op in program.operators
        if isinstance(op, Convolution) and math.prod(positions.get(op.name, ())) > 1
    ]
    if not of_convolutions:
        raise ValueError(
            f"grad_cam weights the channels of a convolution, and this network of "
            f"{len(program.operators)} operators has none with several positions for inputs of "
            f"shape {('batch', *network.input_shape)}; name a layer that has channels and "
            "positions, or use input_x_gradient"
        )
    # a name whose value is what its operator gives, with the norm that was folded into that
    named = {path: layer.operator for path, layer in program.layers.items() if not layer.unfolded}
    return [path for path, name in named.items() if positions.get(name) == of_convolutions[-1]][-1]
