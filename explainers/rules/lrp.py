"""Rule table ``lrp``: layer-wise relevance propagation (Bach et al. 2015).

Each rule hands the relevance ``R`` of an operator's output ``z`` to its input ``x`` in proportion
to contributions, doi:10.1371/journal.pone.0130140. Definitions and defaults are zennit's (Anders
et al. 2021, arXiv:2106.13200): the denominator is ``stab(z) = z + eps * sgn(z)`` with
``sgn(0) = +1``, and the bias is part of it, so that bias and stabiliser absorb relevance in
convolutions and matrix products. Everything else conserves it.

Rules called ``<name>.<fact>`` take the place of ``<name>`` where a `Composite` knows the fact
before any input is seen: ``nonnegative`` (of all inputs) and ``signal_0``, ``signal_1`` (which
factor of a product is gated by the other).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
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
    Multiply,
    Operator,
    Pad,
    Reshape,
)
from explainers.rules.gradient import gradient
from explainers.rules.table import Relevances, RuleTable, Values

if TYPE_CHECKING:
    from torch import Tensor

lrp = RuleTable("lrp")

STABILISER = 1e-6
"""zennit's; relevance is lost to it where contributions nearly cancel."""

# Weights never change in a network, so their signed parts are made once, and go with the operator.
_parts: WeakKeyDictionary[Operator, dict[str, Tensor]] = WeakKeyDictionary()


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return ``z + epsilon * sgn(z)`` with ``sgn(0) = +1``."""
    return torch.where(z < 0, z - epsilon, z + epsilon)


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


@lrp.rule(Convolution, name="flat")
def flat_convolution(
    op: Convolution, relevance: Tensor, values: Values, stabiliser: float = STABILISER
) -> Relevances:
    """Share equally among the inputs that a window sees (Lapuschkin et al. 2019).

    doi:10.1038/s41467-019-08987-4. All weights count as one, without bias. All channels of a group
    then get the same, so output channels are summed first, and the one channel that is carried
    back is repeated. At borders fewer inputs share.
    """
    x = values[op.inputs[0]]
    batch, channels, *extent = x.shape
    outputs = relevance.shape[1]
    ones = op.weight.new_ones(1, 1, *op.weight.shape[2:])
    single = replace(op, weight=ones, bias=None, groups=1)
    taps = single.run(x.new_ones(1, 1, *extent))
    count = taps.mul_(channels // op.groups).add_(stabiliser)
    grouped = relevance.reshape(batch, op.groups, outputs // op.groups, *relevance.shape[2:])
    share = (grouped.sum(2) / count).reshape(batch * op.groups, 1, *relevance.shape[2:])
    back = _spread_by_ones(single, share, extent).reshape(batch, op.groups, 1, *extent)
    return (back.expand(-1, -1, channels // op.groups, *extent).reshape(x.shape),)


def _spread_by_ones(op: Convolution, share: Tensor, extent: list[int]) -> Tensor:
    """Return the transpose of a convolution with ones, of one channel: axis by axis.

    A window of ones is a product of windows along the axes, and adding shifted copies is ten to
    forty times faster on a CPU than a transposed convolution with one channel.
    """
    if op.transposed:
        return op.transpose(share, share.new_empty(len(share), 1, *extent))
    zeros = op.extents_of_zeros
    geometry = zip(extent, op.weight.shape[2:], op.stride, zeros, op.dilation, strict=True)
    for axis, (size, taps, stride, (before, after), dilation) in enumerate(geometry, start=2):
        n_windows = share.shape[axis]
        shape = [*share.shape[:axis], before + size + after, *share.shape[axis + 1 :]]
        spread = share.new_zeros(shape)
        for tap in range(taps):
            first = tap * dilation
            reached = slice(first, first + (n_windows - 1) * stride + 1, stride)
            spread[(*[slice(None)] * axis, reached)] += share
        share = spread.narrow(axis, before, size)
    return share


@lrp.rule(Linear, name="flat")
def flat_linear(
    op: Linear, relevance: Tensor, values: Values, stabiliser: float = STABILISER
) -> Relevances:
    """Share equally among all inputs; see `flat_convolution`."""
    x = values[op.inputs[0]]
    share = relevance.sum(-1, keepdim=True) / (x.shape[-1] + stabiliser)
    return (share.expand_as(x),)


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
    return gradient.find(op)(op, relevance, values)


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
    (spread,) = gradient.find(op)(op, relevance, values)
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
