"""LRP rule ``flat``: every input that a window sees gets the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from explainers.operators import Convolution, Linear
from explainers.rules.lrp.sharing import divided
from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser, Stabilising, check_stabiliser
from explainers.rules.lrp.table import lrp
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import Values


@lrp.rule(Convolution, name="flat", check=check_stabiliser)
def flat_convolution(
    op: Convolution, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
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
    count = taps.mul_(channels // op.groups)
    grouped = relevance.reshape(batch, op.groups, outputs // op.groups, *relevance.shape[2:])
    share, absorbed = divided(op, grouped.sum(2), count, Stabiliser.of(stabiliser))
    share = share.reshape(batch * op.groups, 1, *relevance.shape[2:])
    back = _spread_by_ones(single, share, extent).reshape(batch, op.groups, 1, *extent)
    back = back.expand(-1, -1, channels // op.groups, *extent).reshape(x.shape)
    return Shares((back,), absorbed)


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


@lrp.rule(Linear, name="flat", check=check_stabiliser)
def flat_linear(
    op: Linear, relevance: Tensor, values: Values, stabiliser: Stabilising = STABILISER
) -> Shares:
    """Share equally among all inputs; see `flat_convolution`."""
    x = values[op.inputs[0]]
    count = torch.full_like(relevance[:1, ..., :1], x.shape[-1])
    arriving = relevance.sum(-1, keepdim=True)
    share, absorbed = divided(op, arriving, count, Stabiliser.of(stabiliser))
    return Shares((share.expand_as(x),), absorbed)
