"""Rule table ``epsilon_lrp``: DeepExplain's epsilon-LRP, a gradient with other activation slopes.

At an activation the derivative is replaced by ``f(x) / (x + epsilon * sgn(x))``, ``sgn(0) = +1``;
everything linear, and max-pools, keep the gradient (Ancona et al. 2018, arXiv:1711.06104, where it
is shown to be LRP's epsilon rule). It differs from the rule ``epsilon`` of the table ``lrp`` in
what is stabilised: each activation's input here, the output of each linear map there.

What is carried back is a multiplier; its product with the value is the relevance, and what biases
and stabilisers absorb is told in relevance. Operators in which values meet values (products, norms,
softmax, attention, recurrence) have no multiplier of one activation and are refused, as are
functions that are no activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Embedding,
    Linear,
    LinearMap,
    MaxPool,
    Operator,
    Pad,
    Reshape,
)
from explainers.rules.amounts import by_output, per_row
from explainers.rules.gradient import gradient
from explainers.rules.table import RuleTable, Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import Relevances, Rule, Values

epsilon_lrp = RuleTable("epsilon_lrp", "lrp, deep_lift or integrated_gradients")


@dataclass(frozen=True)
class ActivationMultipliers:
    """Which rule an operator gets."""

    epsilon: float
    """Stabiliser of activations."""
    dependent: frozenset[str]
    """Names of the operators that depend on the network's input."""

    def __call__(self, op: Operator) -> Rule:
        """Return the rule of an operator."""
        if isinstance(op, Activation):
            return partial(epsilon_lrp.find(op), epsilon=self.epsilon)
        is_filled = isinstance(op, Pad) and op.mode == "constant" and op.value != 0
        if is_filled or (isinstance(op, Add | Concat) and not self.dependent.issuperset(op.inputs)):
            return partial(epsilon_lrp.find(op, "with_constants"), dependent=self.dependent)
        return epsilon_lrp.find(op)


@epsilon_lrp.rule(AveragePool, MaxPool, Add, Concat, LinearMap, Pad, Reshape, Embedding)
def unchanged(op: Operator, relevance: Tensor, values: Values) -> Relevances:
    """Take the gradient of what keeps all relevance."""
    found = gradient.find(op)(op, relevance, values)
    return found.relevances if isinstance(found, Shares) else found


@epsilon_lrp.rule(Add, Concat, Pad, name="with_constants")
def beside_constants(
    op: Operator, relevance: Tensor, values: Values, *, dependent: frozenset[str]
) -> Shares:
    """Take the gradient; fixed terms and margins absorb what the inputs do not get, as biases."""
    parts = [
        part if name in dependent else None
        for name, part in zip(op.inputs, unchanged(op, relevance, values), strict=True)
    ]
    absorbed = per_row(op, relevance * values[op.name])
    for name, part in zip(op.inputs, parts, strict=True):
        if part is not None:
            absorbed = absorbed - per_row(op, part * values[name])
    return Shares(tuple(parts), {"bias": absorbed})


@epsilon_lrp.rule(Convolution, Linear)
def weighted(op: Convolution | Linear, relevance: Tensor, values: Values) -> Relevances | Shares:
    """Multiply by the transposed weights; the bias absorbs its product with the multiplier."""
    part = op.transpose(relevance, values[op.inputs[0]])
    if op.bias is None:
        return (part,)
    return Shares((part,), {"bias": by_output(op, relevance) @ op.bias})


@epsilon_lrp.rule(Affine)
def scaled(op: Affine, relevance: Tensor, values: Values) -> Relevances | Shares:
    """Multiply by the scale; the shift absorbs its product with the multiplier."""
    part = relevance if op.scale is None else relevance * op.scale
    if op.shift is None:
        return (part,)
    return Shares((part,), {"bias": per_row(op, relevance * op.shift)})


@epsilon_lrp.rule(Activation)
def stabilised_ratio(
    op: Activation, relevance: Tensor, values: Values, *, epsilon: float = 1e-4
) -> Shares:
    """Multiply by ``f(x) / (x + epsilon * sgn(x))``, ``sgn(0) = +1``."""
    value, output = values[op.inputs[0]], values[op.name]
    if op.kind == "relu":
        # the value is the output wherever the ratio is not zero
        part = output + epsilon
        part = torch.div(output, part, out=part).mul_(relevance)
        return Shares((part,), {"stabiliser": epsilon * per_row(op, part)})
    stabilised = torch.where(value < 0, value - epsilon, value + epsilon)
    part = output / stabilised * relevance
    return Shares((part,), {"stabiliser": per_row(op, part * (stabilised - value))})
