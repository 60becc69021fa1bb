"""Rules for convolutions and linear maps: each is a layer with units of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.causal.structure.table import Entry, channels, refuse
from explainers.causal.structure.units import (
    NOTHING,
    Units,
    agreed,
    broadcast,
    shared_over,
    standing,
    windows,
    without,
)
from explainers.operators import Convolution, Linear

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.structure.passing import Given
    from explainers.causal.structure.table import Setting


def is_depthwise(op: Convolution) -> bool:
    """Return whether each output channel reads one input channel, and there are several."""
    per_group = op.weight.shape[0] // op.groups if op.transposed else op.weight.shape[1]
    return op.groups > 1 and per_group == 1


@channels.rule(Convolution)
def convolution(op: Convolution, units: Given, setting: Setting) -> Units | None:
    """Enter a layer whose input features are channels; a depthwise one passes units on.

    One map from one channel to one, whose places are channels of other layers, is no layer: each
    of its values is a unit that stands for its window (Wang et al. 2020, arXiv:1910.03151).
    """
    n_inputs = op.weight.shape[0] if op.transposed else op.weight.shape[1] * op.groups
    shape = setting.shapes[op.name]
    if is_depthwise(op):
        if units[0] is None:
            return None
        found = _of_features(op, units[0], 1)
        index = found.index.expand(1, n_inputs, *found.index.shape[2:])
        multiplied = index.repeat_interleave(shape[1] // n_inputs, 1)
        return broadcast(Units(multiplied, found.table), shape)
    if units[0] is not None and _is_over_channels(op, units[0]):
        sizes, zeros = op.weight.shape[2:], op.extents_of_zeros
        read = windows(units[0], sizes, op.stride, op.dilation, zeros)
        axes = range(-len(sizes), 0)
        window = shared_over((read,), axes, setting.register)
        return broadcast(Units(without(window.index, axes), window.table), shape)
    features = _features(op, units[0], 1, n_inputs)
    return _entered(op, features, 1, shape, setting)


def _is_over_channels(op: Convolution, units: Units) -> bool:
    """Return whether one channel is mapped to one, of which the places are different units."""
    is_single = op.weight.shape[:2] == (1, 1) and not op.transposed
    return is_single and agreed(units, [0, *range(2, units.index.ndim)]) is None


@channels.rule(Linear)
def linear(op: Linear, units: Given, setting: Setting) -> Units | None:
    """Enter a layer whose input features lie along the last axis.

    Where that axis has the places of one channel, whose weights all channels share (Tolstikhin et
    al. 2021, arXiv:2105.01601), it is no layer: units pass on, as through a depthwise convolution.
    """
    shape = setting.shapes[op.name]
    of_channel = None if units[0] is None else _mixing_places(units[0])
    if of_channel is not None:
        return broadcast(of_channel, shape)
    features = _features(op, units[0], -1, op.weight.shape[1])
    return _entered(op, features, -1, shape, setting)


def _mixing_places(units: Units) -> Units | None:
    """Return the units of which the last axis holds places, if it does and others differ."""
    of_channel = agreed(units, (-1,))
    if of_channel is None or agreed(units, range(units.index.ndim - 1)) is not None:
        return None
    return of_channel


def _entered(
    op: Convolution | Linear, features: Tensor, axis: int, shape: tuple[int, ...], setting: Setting
) -> Units:
    n_outputs = shape[axis]
    setting.entries.append(Entry(op, features, n_outputs))
    return standing(setting.register.enter(n_outputs), axis, shape)


def _features(op: Convolution | Linear, units: Units | None, axis: int, n_features: int) -> Tensor:
    """Return the units of each input feature, int64 ``(features, width)``."""
    if units is None:
        return torch.full((n_features, 1), NOTHING)
    found = _of_features(op, units, axis)
    return found.table[found.index.flatten().expand(n_features)]


def _of_features(op: Convolution | Linear, units: Units, axis: int) -> Units:
    n_axes = units.index.ndim
    found = agreed(units, [other for other in range(n_axes) if other != axis % n_axes])
    if found is None:
        refuse(op, "one of its inputs is of different channels at different places")
    return found
