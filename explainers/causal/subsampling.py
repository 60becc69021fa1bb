"""Which neurons of a wide layer the original tests: one fifth, by the weights of one effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.structure import WeightedLayer


@torch.no_grad()
def subsampled(layer: WeightedLayer, effects: Tensor) -> Tensor:
    """Return which neurons are tested for each class, bool ``(classes, neurons)``.

    Of the last of the effects, the weights are summed over each neuron; the tenth of the neurons
    with the largest sums, the twentieth with the smallest and the twentieth around the median are
    tested, each number rounded down (arXiv:2305.08950, as published code has it).

    Parameters
    ----------
    layer
        Of the structure.
    effects
        Bool ``(classes, n_outputs)``; nothing is tested for a class that has none.
    """
    positions = torch.arange(effects.shape[1])
    last = torch.where(effects, positions, -1).amax(1)
    order = _weights(layer)[last.clamp(min=0)].argsort(dim=1, stable=True)
    n = layer.n_neurons
    largest, part = n // 10, n // 20
    middle = n // 2 - part // 2
    ranked = torch.arange(n)
    is_tested = (ranked < part) | (ranked >= n - largest)
    is_tested |= (ranked >= middle) & (ranked < middle + part)
    found = torch.zeros(len(effects), n, dtype=torch.bool)
    found.scatter_(1, order, is_tested.expand(len(effects), -1))
    return found & (last >= 0)[:, None]


def _weights(layer: WeightedLayer) -> Tensor:
    """Return the sum of each output's weights over each neuron, ``(outputs, neurons)``."""
    operator: Any = layer.operator if layer.unfolded is None else layer.unfolded
    weight: Tensor = operator.weight.detach().cpu()
    if layer.groups > 1 or getattr(operator, "transposed", False):
        raise NotImplementedError(
            f"layer {layer.name!r} has more than compat_max_inputs neurons, and is a convolution "
            "with groups or a transposed one, of which the original has no rule; raise "
            "compat_max_inputs, or take rule: paired"
        )
    neuron_of = layer.neuron_of.cpu()
    is_read = neuron_of >= 0
    by_feature = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    sums = torch.zeros(len(weight), layer.n_neurons, dtype=weight.dtype)
    return sums.index_add_(1, neuron_of[is_read], by_feature[:, is_read])
