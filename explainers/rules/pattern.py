"""Rule table ``pattern``: the chain rule with patterns in place of weights.

PatternNet and PatternAttribution (Kindermans et al. 2018, arXiv:1705.05598) are defined for layers
``y = w^T x + b`` and ReLUs. What comes back through a layer takes the way of its pattern ``a``
(default rules: a signal, in the units of the input) or of ``w * a`` (rules ``attribution``: as
``w^T a = 1``, each output's relevance is handed on without loss). ReLUs gate as for the gradient.

Everything else that is linear has the pattern that its fixed weights leave no doubt about. A norm
that no layer took in, ``y = s x + t``, has ``a = 1 / s``. Sums of two values copy a signal, as its
gradient, and share relevance in proportion to the values, because copies would multiply it. Pools,
reshapes, joins and margins have the gradient's rules. Products of values, attention, norms by the
sample's own statistics and functions that are no rectifiers have no pattern and are refused.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch

from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Linear,
    MaxPool,
    Operator,
    Pad,
    Reshape,
)
from explainers.rules.gradient import gradient
from explainers.rules.lrp import lrp
from explainers.rules.rectified import RectifierTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.rules.table import Relevances, Rule, Values

pattern = RectifierTable(
    "pattern", "gradient, input_x_gradient, integrated_gradients or deep_lift, which serve it"
)
pattern.adopt(lrp, Add, name="attribution")
pattern.adopt(gradient, Activation, Add, AveragePool, Concat, MaxPool, Pad, Reshape)

Variant = Literal["default", "attribution"]


@pattern.rule(Convolution, Linear, name="attribution")
@pattern.rule(Convolution, Linear)
def along(
    op: Convolution | Linear, relevance: Tensor, values: Values, direction: Tensor
) -> Relevances:
    """Go back by `direction`, ``a`` or ``w * a``, in place of the weights."""
    return (op.transpose(relevance, values[op.inputs[0]], direction),)


@pattern.rule(Affine)
def unscaled(op: Affine, relevance: Tensor, values: Values) -> Relevances:
    """Divide by the scale, which is the pattern of one weight; nothing comes back by a zero."""
    if op.scale is None:
        return (relevance,)
    inverse = torch.where(op.scale == 0, 0.0, 1 / torch.where(op.scale == 0, 1.0, op.scale))
    return (relevance * inverse,)


@pattern.rule(Affine, name="attribution")
def passed(op: Affine, relevance: Tensor, values: Values) -> Relevances:
    """Hand on what arrives: scale times pattern is one."""
    return (relevance,)


class Assigned:
    """The rules of a network's operators, with a pattern for each layer that has weights.

    Raises
    ------
    NotImplementedError
        If an operator has no rule.
    LookupError
        If a layer has no pattern.
    ValueError
        If a pattern is not shaped like the weight.
    """

    def __init__(self, network: Network, patterns: Mapping[str, Any], variant: Variant) -> None:
        pattern.check(network)
        self._rules: dict[str, Rule] = {}
        for op in network.operators[1:]:
            if isinstance(op, Convolution | Linear) and op.name in network.dependent:
                direction = _normalised(op, _direction(op, patterns))
                if variant == "attribution":
                    direction = direction * op.weight
                self._rules[op.name] = partial(along, direction=direction)
        self._variant = variant

    def __call__(self, op: Operator) -> Rule:
        """Return the rule of an operator."""
        assigned = self._rules.get(op.name)
        if assigned is not None:
            return assigned
        has_own = self._variant in pattern.names(type(op))
        return pattern.find(op, self._variant if has_own else "default")


def assigned(network: Network, patterns: Mapping[str, Any], variant: Variant) -> Assigned:
    """Return the rules of a network with these patterns; made once while both stay the same."""
    made = _assigned.setdefault(network, {})
    if variant not in made or made[variant][0] is not patterns:
        made[variant] = (patterns, Assigned(network, patterns, variant))
    return made[variant][1]


_assigned: WeakKeyDictionary[Network, dict[str, tuple[Mapping[str, Any], Assigned]]]
_assigned = WeakKeyDictionary()


def _direction(op: Convolution | Linear, patterns: Mapping[str, Any]) -> Tensor:
    if op.name not in patterns:
        raise LookupError(
            f"there is no pattern for layer {op.name!r}, only for {', '.join(patterns)}; fit them "
            "for this network: explainers.scan(network, 'patterns', loader)"
        )
    direction = inward(op, torch.as_tensor(patterns[op.name]).to(op.weight))
    if direction.shape != op.weight.shape:
        raise ValueError(
            f"the pattern of layer {op.name!r} has shape {tuple(direction.shape)}, its weight "
            f"{tuple(op.weight.shape)}; fit patterns for this network with the scan 'patterns'"
        )
    return direction


def _normalised(op: Convolution | Linear, direction: Tensor) -> Tensor:
    """Return the direction with ``w^T a = 1``: it was fitted for an output that a norm scales.

    The part of a network that ends at a layer has its weights without the norm.
    """
    gains = outward(op, direction * op.weight).flatten(1).sum(1)
    inverse = torch.where(gains == 0, 0.0, 1 / torch.where(gains == 0, 1.0, gains))
    outputs_first = outward(op, direction)
    return inward(op, outputs_first * inverse.view(-1, *[1] * (outputs_first.ndim - 1)))


def outward(op: Convolution | Linear, weight: Tensor) -> Tensor:
    """Return something shaped like the weight with outputs first: ``(out, in / groups, ...)``."""
    if not (isinstance(op, Convolution) and op.transposed):
        return weight
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(op.groups, inputs // op.groups, outputs, *kernel)
    return grouped.transpose(1, 2).flatten(0, 1)


def inward(op: Convolution | Linear, outputs_first: Tensor) -> Tensor:
    """Return what `outward` changed as the operator has it."""
    if not (isinstance(op, Convolution) and op.transposed):
        return outputs_first
    outputs, inputs, *kernel = outputs_first.shape
    grouped = outputs_first.reshape(op.groups, outputs // op.groups, inputs, *kernel)
    return grouped.transpose(1, 2).flatten(0, 1)
