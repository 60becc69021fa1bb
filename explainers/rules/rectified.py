"""Rule tables ``guided`` and ``deconvnet``: the chain rule, but for what rectifiers let back.

Both methods change the derivative of the rectifier and nothing else, so every operator that both
papers' networks may have keeps the rule of the table ``gradient``: what is linear, what routes
(max-pools by their switches, reshapes, joins), and what combines several values smoothly
(products, norms by statistics of the sample, softmax, attention).

A function of one value that does not rectify (sigmoid, GELU, hard-swish, leaky ReLU), recurrence
and whatever has no class of its own are refused. These take the rectifier's place, and what to let
back through them is nowhere defined; the plain slope would make the map a mixture of two methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import (
    Activation,
    Add,
    Affine,
    Attention,
    AveragePool,
    Concat,
    Convolution,
    Embedding,
    Linear,
    LinearMap,
    MatrixProduct,
    MaxPool,
    Multiply,
    Normalise,
    Operator,
    Pad,
    Reshape,
    Softmax,
)
from explainers.rules.gradient import gradient
from explainers.rules.table import RuleTable, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.rules.table import Relevances, Shares, Values


class RectifierTable(RuleTable):
    """A table that serves rectifiers, and no other function of one value."""

    def find(self, op: Operator, name: str = "default") -> Callable[..., Relevances | Shares]:
        """Return the rule for an operator.

        Raises
        ------
        NotImplementedError
            If the table has none for it; as it has for an activation that does not rectify.
        """
        if not isinstance(op, Activation) or rectifies(op):
            return super().find(op, name)
        raise NotImplementedError(
            f"rule table {self.name!r} has no rule for the operator {describe(op)} (node "
            f"{op.name!r} in {op.module_path or 'the network itself'!r}): what comes back is "
            "defined for rectifiers alone (relu, relu6, a clamp or hardtanh from 0); use "
            f"{self.instead}"
        )


_INSTEAD = (
    "gradient, saliency, input_x_gradient, integrated_gradients, smooth_grad or grad_cam, "
    "which differentiate any activation"
)
guided = RectifierTable("guided", _INSTEAD)
deconvnet = RectifierTable("deconvnet", _INSTEAD)

for _table in (guided, deconvnet):
    _table.adopt(gradient, Convolution, Linear, Affine, Add, Embedding)
    _table.adopt(gradient, MaxPool, AveragePool, Concat, LinearMap, Pad, Reshape)
    _table.adopt(gradient, Multiply, MatrixProduct, Normalise, Softmax, Attention)


def rectifies(op: Activation) -> bool:
    """Return whether an activation is zero below zero, and the value itself from there on.

    An upper bound (``relu6``) is no hindrance.
    """
    if op.kind in ("relu", "relu6"):
        return True
    return op.kind in ("hardtanh", "clamp") and bool(op.parameters) and op.parameters[0] == 0


@guided.rule(Activation)
def positive_through_gate(op: Activation, relevance: Tensor, values: Values) -> Relevances:
    """Let back what is positive, where the input was (Springenberg et al. 2014, arXiv:1412.6806).

    ``R_in = max(R, 0) * f'(x)``, and ``f'(x) = [x > 0]`` for the ReLU.
    """
    if op.kind == "relu":
        # the gate's result is new, so the second step needs no memory of its own
        return (torch.ops.aten.threshold_backward(relevance, values[op.name], 0).clamp_(min=0),)
    found: Relevances | Shares = gradient.find(op)(op, relevance.clamp(min=0), values)
    return found  # type: ignore[return-value]


@deconvnet.rule(Activation)
def positive(op: Activation, relevance: Tensor, values: Values) -> Relevances:
    """Let back what is positive, wherever it goes (Zeiler and Fergus 2013, arXiv:1311.2901).

    ``R_in = max(R, 0)``: the rectifier is applied to what comes back, and its own gate, an upper
    bound's included, is not.
    """
    return (relevance.clamp(min=0),)
