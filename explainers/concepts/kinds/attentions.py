"""Where attention weights meet values: fused, or written out as products and a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import (
    Activation,
    Affine,
    Attention,
    Linear,
    MatrixProduct,
    Normalise,
    Reshape,
    Softmax,
)

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.operators import Operator


def mixing(network: Network, layer: str) -> Operator | None:
    """Return the product of attention weights and values that a layer is, or projects."""
    operators = {op.name: op for op in network.operators}
    op, n_projections = network.operator(layer), 0
    while not is_mixing(network, op):
        sources = sorted(op.sources & network.dependent)
        n_projections += isinstance(op, Linear)
        if not isinstance(op, _BEHIND) or len(sources) != 1 or n_projections > 1:
            return None
        op = operators[sources[0]]
    return op


def is_mixing(network: Network, op: Operator) -> bool:
    """Return whether an operator multiplies values by attention weights."""
    if not isinstance(op, MatrixProduct):
        return isinstance(op, Attention)
    operators = {op.name: op for op in network.operators}
    weights = operators[op.inputs[0]]
    while isinstance(weights, Reshape):
        weights = operators[weights.inputs[0]]
    return isinstance(weights, Softmax) and weights.name in network.dependent


_BEHIND = (Activation, Affine, Linear, Normalise, Reshape)
