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
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
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


@lrp.rule(MaxPool, Reshape, name="route")
@lrp.rule(MaxPool, Reshape)
def routed(op: Operator, relevance: Tensor, values: Values) -> Relevances:
    """Hand each value on to where the output came from; it is the gradient's route."""
    found = gradient.find(op)(op, relevance, values)
    return found.relevances if isinstance(found, Shares) else found


@lrp.rule(Concat, name="route")
@lrp.rule(Concat, name="gradient")
@lrp.rule(Concat)
def parted(op: Concat, relevance: Tensor, values: Values) -> Shares:
    """Part relevance where values were joined; what a constant gets (a class token) is a bias's."""
    return Shares(routed(op, relevance, values))


@lrp.rule(Pad, name="route")
@lrp.rule(Pad)
def cropped(op: Pad, relevance: Tensor, values: Values) -> Shares:
    """Hand back what lies within; what arrives at a margin has no origin, and is lost.

    A margin of zeros before a convolution is no `Pad` but part of the convolution, where it gets
    nothing.
    """
    (inside,) = routed(op, relevance, values)
    if inside is None:
        raise TypeError(f"the gradient rule of {op.name!r} gave nothing to the padded value")
    if op.mode != "constant":
        return Shares((inside,))
    return Shares((inside,), rest="lost")


@lrp.rule(Add, name="norm", check=check_stabiliser)
@lrp.rule(Add, check=check_stabiliser)
def norm_of_sum(
    op: Add, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Share in proportion to the two terms: ``R_i = (x_i + eps * sgn(z) * w_i) * R / stab(z)``.

    zennit's Norm lets the stabiliser absorb ``eps * R / stab(z)``; here the two inputs share that
    too, by ``w_i = |x_i| / (|x_1| + |x_2|)``, so that sums conserve relevance, even where the terms
    cancel, and a term that is zero gets exactly zero; only two that are zero share equally. A term
    that does not depend on the network's input (a table of positions) keeps its share as a bias
    does.
    """
    shapes = [values[name].shape for name in op.inputs]
    first, second = (values[name].expand_as(values[op.name]) for name in op.inputs)
    share, held = _parted(op, relevance, values, stabiliser)
    weight, total = first.abs(), second.abs()
    weight.div_(total.add_(weight)).nan_to_num_(0.5)
    # The second does not get what the first leaves, whose rounding would go to a term of zero.
    of_first = torch.mul(first, share, out=total).addcmul_(weight, held)
    held.addcmul_(weight, held, value=-1)
    of_second = torch.mul(second, share, out=share).add_(held)
    return Shares((of_first.sum_to_size(shapes[0]), of_second.sum_to_size(shapes[1])))


def _parted(
    op: Operator, relevance: Tensor, values: Values, stabiliser: Stabilising
) -> tuple[Tensor, Tensor]:
    """Return the relevance over the stabilised value, and what the stabiliser would absorb."""
    z = values[op.name]
    stabilises = Stabiliser.of(stabiliser)
    part = stabilises.part(z, op.batch_axis)
    total = z + part
    if not stabilises.may_vanish:
        share = torch.div(relevance, total, out=total)
        return share, part.mul_(share)
    is_zero = total == 0
    share = torch.div(relevance, total, out=total).masked_fill_(is_zero, 0)
    return share, torch.where(is_zero, relevance, part.mul_(share))


@lrp.rule(AveragePool, name="norm", check=check_stabiliser)
@lrp.rule(AveragePool, check=check_stabiliser)
def norm_of_mean(
    op: AveragePool, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Relevances:
    """Share in proportion to the values of a window: ``x * J^T (R / stab(z))``.

    As in `norm_of_sum`, what the stabiliser would absorb is shared too, by the sizes of the values;
    a window in which all are zero shares equally.
    """
    x = values[op.inputs[0]]
    share, held = _parted(op, relevance, values, stabiliser)
    size = x.abs()
    mean = op.run(size)
    is_empty = mean == 0
    weight = op.run(torch.ones_like(x[:1]))  # below one where a window reaches into the margin
    equal = (held / weight).masked_fill_(~is_empty, 0)
    held.div_(mean).masked_fill_(is_empty, 0)
    found = x * _spread(op, share, values)
    return (found.addcmul_(size, _spread(op, held, values)).add_(_spread(op, equal, values)),)


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
