"""Class activation maps weighted by gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from explainers.base import Attribution, Cost
from explainers.catalogue import register
from explainers.operators import Convolution
from explainers.rules.gradient import gradient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.table import Relevances, Rule, Values
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
        """Refuse a network without such a layer."""
        chosen(self.layer, network)

    def relevance(self, trace: Trace, target: Target) -> Tensor:
        """Return the weighted sum of the channels, as large as the input."""
        layer = chosen(self.layer, trace.network)
        value = trace.layer(layer)
        positions = tuple(range(2, value.ndim))
        slope = _gradient_at(layer, trace, target)
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
    shapes = _shapes(network)
    if layer is None:
        return _last(network, shapes)
    shape = shapes[network.operator(layer).name]
    if not len(shape) == len(network.input_shape) >= 2:
        raise ValueError(
            f"grad_cam weights channels over positions, got layer {layer!r} of shape "
            f"{('batch', *shape)} for inputs of shape {('batch', *network.input_shape)}; name a "
            "convolution, or anything else with as many axes as the inputs"
        )
    return layer


def _last(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the last value with the positions of the last convolution that has several."""
    n_axes = len(network.input_shape)
    spatial = [op for op in network.operators[1:] if len(shapes[op.name]) == n_axes]
    positions = [
        shapes[op.name][1:]
        for op in spatial
        if isinstance(op, Convolution) and math.prod(shapes[op.name][1:]) > 1
    ]
    if not positions:
        raise ValueError(
            f"grad_cam weights the channels of a convolution, and this network of "
            f"{len(network.operators)} operators has none with several positions; name a layer "
            "that has channels and positions, or use input_x_gradient"
        )
    return [op for op in spatial if shapes[op.name][1:] == positions[-1]][-1].name


_shapes_of: WeakKeyDictionary[Network, dict[str, tuple[int, ...]]] = WeakKeyDictionary()


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Return the shape of every operator's value for one sample, found once by running two."""
    if network not in _shapes_of:
        values = network.run(network.example)
        _shapes_of[network] = {name: tuple(value.shape[1:]) for name, value in values.items()}
    return _shapes_of[network]


def _gradient_at(layer: str, trace: Trace, target: Target) -> Tensor:
    """Return the gradient at a layer, by a walk that ends there."""
    operators = [op.name for op in trace.network.operators]
    name = trace.network.operator(layer).name
    behind = frozenset(operators[operators.index(name) + 1 :])

    def choose(op: Operator) -> Rule:
        return gradient.find(op) if op.name in behind else _nothing

    walked = trace.walk(choose, target, key=("gradient behind", name), record=[name])
    return walked.layers.get(name, torch.zeros_like(trace.values[name]))


def _nothing(op: Operator, relevance: Tensor, values: Values) -> Relevances:
    return (None,) * len(op.inputs)
