"""LRP rules of convolutions and matrix products that share by contribution."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from explainers.operators import Convolution, Linear, Operator
from explainers.rules.lrp.table import STABILISER, lrp, stabilised

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import Relevances, Values

# Weights never change in a network, so their signed parts are made once, and go with the operator.
_parts: WeakKeyDictionary[Operator, dict[str, Tensor]] = WeakKeyDictionary()


def positive_weight(op: Convolution | Linear) -> Tensor:
    """Return ``max(W, 0)``, made once for each operator."""
    made = _parts.setdefault(op, {})
    if "positive" not in made:
        made["positive"] = op.weight.detach().clamp(min=0)
    return made["positive"]


def negative_weight(op: Convolution | Linear) -> Tensor:
    """Return ``min(W, 0)``, made once for each operator."""
    made = _parts.setdefault(op, {})
    if "negative" not in made:
        made["negative"] = op.weight.detach().clamp(max=0)
    return made["negative"]


def positive_bias(op: Convolution | Linear) -> Tensor | None:
    """Return ``max(b, 0)``."""
    return None if op.bias is None else op.bias.detach().clamp(min=0)


@lrp.rule(Convolution, Linear, name="epsilon")
def epsilon(
    op: Convolution | Linear, relevance: Tensor, values: Values, epsilon: float = STABILISER
) -> Relevances:
    """Share by contribution: ``x * W^T (R / stab(z))``, z being the operator's own output."""
    x = values[op.inputs[0]]
    share = relevance / stabilised(values[op.name], epsilon)
    return (op.transpose(share, x) * x,)


@lrp.rule(Convolution, Linear, name="z_plus")
def z_plus(
    op: Convolution | Linear, relevance: Tensor, values: Values, stabiliser: float = STABILISER
) -> Relevances:
    """Share by positive contribution (Montavon et al. 2017, arXiv:1512.02479), for signed inputs.

    ``z = x+ W+ + x- W- + b+``; ``x+ * W+^T (R / stab(z)) + x- * W-^T (R / stab(z))``.
    """
    x = values[op.inputs[0]]
    positive, negative = x.clamp(min=0), x.clamp(max=0)
    z = op.linear(positive, positive_weight(op), positive_bias(op))
    z += op.linear(negative, negative_weight(op))
    share = _share_of_positive(relevance, z, stabiliser)
    back = op.transpose(share, x, positive_weight(op)).mul_(positive)
    return (back.addcmul_(op.transpose(share, x, negative_weight(op)), negative),)


@lrp.rule(Convolution, Linear, name="z_plus.nonnegative")
def z_plus_of_nonnegative(
    op: Convolution | Linear, relevance: Tensor, values: Values, stabiliser: float = STABILISER
) -> Relevances:
    """Share by positive contribution where ``x- = 0``: ``x * W+^T (R / stab(x W+ + b+))``."""
    x = values[op.inputs[0]]
    z = op.linear(x, positive_weight(op), positive_bias(op))
    share = _share_of_positive(relevance, z, stabiliser)
    return (op.transpose(share, x, positive_weight(op)).mul_(x),)


def _share_of_positive(relevance: Tensor, z: Tensor, stabiliser: float) -> Tensor:
    # In place: z was made here. The clamp is for convolution kernels that round sums of
    # nonnegative terms below zero (Winograd), where a sign would turn small shares into huge ones.
    return torch.div(relevance, z.clamp_(min=0).add_(stabiliser), out=z)
