"""LRP rules of what only routes, scales or sums: they conserve relevance exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
)
from explainers.rules.gradient import gradient
from explainers.rules.lrp.table import STABILISER, lrp
from explainers.rules.table import Relevances, Shares, Values

if TYPE_CHECKING:
    from torch import Tensor


@lrp.rule(Activation, Affine, name="pass")
@lrp.rule(Activation, Affine)
def passed(op: Activation | Affine, relevance: Tensor, values: Values) -> Relevances:
    """Hand on what arrives, unchanged.

    An `Affine` is a batch norm that no convolution or linear precedes (or a layer scale, or a
    position table): it acts on each value alone, and zennit passes batch norms.
    """
    return (relevance,)


@lrp.rule(MaxPool, Reshape, Concat, Pad, name="route")
@lrp.rule(MaxPool, Reshape, Concat, Pad)
def routed(op: Operator, relevance: Tensor, values: Values) -> Relevances:
    """Hand each value on to where the output came from; it is the gradient's route.

    A margin that `Pad` added has no origin: what arrives there ends. A margin of zeros before a
    convolution is no `Pad` but part of the convolution, where it gets nothing.
    """
    found = gradient.find(op)(op, relevance, values)
    return found.relevances if isinstance(found, Shares) else found


@lrp.rule(Add, name="norm")
@lrp.rule(Add)
def norm_of_sum(
    op: Add, relevance: Tensor, values: Values, stabiliser: float = STABILISER
) -> Relevances:
    """Share in proportion to the two terms: ``R_i = (x_i + eps * sgn(z) / 2) * R / stab(z)``.

    zennit's Norm lets the stabiliser absorb ``eps * R / stab(z)``; here the two inputs share that
    too, so that sums conserve relevance exactly, even where the terms cancel.
    """
    first, second = (values[name] for name in op.inputs)
    z = values[op.name]
    half = torch.copysign(z.new_tensor(stabiliser / 2), z)
    share = torch.add(z, half, alpha=2)
    torch.div(relevance, share, out=share)
    of_first = half.add_(first).mul_(share)
    of_second = torch.sub(relevance, of_first, out=share)
    return of_first.sum_to_size(first.shape), of_second.sum_to_size(second.shape)


@lrp.rule(AveragePool, name="norm")
@lrp.rule(AveragePool)
def norm_of_mean(
    op: AveragePool, relevance: Tensor, values: Values, stabiliser: float = STABILISER
) -> Relevances:
    """Share in proportion to the values of a window: ``x * J^T (R / stab(z))``.

    As in `norm_of_sum`, what the stabiliser would absorb is shared too, equally.
    """
    x, z = values[op.inputs[0]], values[op.name]
    signed = torch.copysign(z.new_tensor(stabiliser), z)
    share = relevance / (z + signed)
    weight = op.run(torch.ones_like(x[:1]))  # below one where a window reaches into the margin
    held_back = share.mul(signed).div_(weight)
    return (_spread(op, share, values) * x + _spread(op, held_back, values),)


def _spread(op: AveragePool, relevance: Tensor, values: Values) -> Tensor:
    (spread,) = routed(op, relevance, values)
    if spread is None:
        raise TypeError(f"the gradient rule of {op.name!r} gave nothing to the pool's input")
    return spread


@lrp.rule(Multiply, name="default.signal_0")
def first_is_signal(op: Multiply, relevance: Tensor, values: Values) -> Relevances:
    """Give all to the signal, none to its gate (Arras et al. 2017, arXiv:1706.07206)."""
    return relevance.sum_to_size(values[op.inputs[0]].shape), None


@lrp.rule(Multiply, name="default.signal_1")
def second_is_signal(op: Multiply, relevance: Tensor, values: Values) -> Relevances:
    """Give all to the signal, none to its gate (Arras et al. 2017, arXiv:1706.07206)."""
    return None, relevance.sum_to_size(values[op.inputs[1]].shape)
