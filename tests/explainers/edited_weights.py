"""Interventions by editing the weights of a copy of the model, and a forward for each neuron."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explainers.causal.structure import WeightedLayer


def effects_of(layer: WeightedLayer, n_rows: int) -> Tensor:
    """Return sets of effects of which the last two rows share theirs, none empty."""
    generator = torch.Generator().manual_seed(layer.n_outputs)
    effects = torch.rand(n_rows, layer.n_outputs, generator=generator) < 0.4
    effects[:, 0] = True
    effects[-1] = effects[-2]
    return effects


def weight_of(model: nn.Module, layer: WeightedLayer) -> Tensor:
    """Return the values of the parameter that is a layer's weight, before any norm."""
    weight = (layer.operator if layer.unfolded is None else layer.unfolded).weight
    owned = model.get_submodule(layer.operator.module_path).parameters()
    same = (one for one in owned if one.shape == weight.shape and torch.equal(one, weight))
    return next(same).data


def edited(
    model: nn.Module,
    layer: WeightedLayer,
    inputs: Tensor,
    effects: Tensor,
    u: float,
    neurons: Sequence[int] | None = None,
) -> Tensor:
    """Return the outputs of every neuron's intervention, ``(neurons, rows, outputs)``."""
    model = copy.deepcopy(model)
    weight = weight_of(model, layer)
    intact = weight.clone()
    found = []
    for neuron in range(layer.n_neurons) if neurons is None else neurons:
        outputs = []
        for row, effect in enumerate(effects):
            for feature in (layer.neuron_of == neuron).nonzero()[:, 0].tolist():
                _set(weight, layer, effect, feature, u)
            with torch.no_grad():
                outputs.append(model(inputs[row : row + 1])[0])
            weight.copy_(intact)
        found.append(torch.stack(outputs))
    return torch.stack(found)


def _set(weight: Tensor, layer: WeightedLayer, effect: Tensor, feature: int, u: float) -> None:
    n_inner = len(layer.neuron_of) // layer.groups
    width = layer.n_outputs // layer.groups
    first = feature // n_inner * width
    chosen = effect[first : first + width].nonzero()[:, 0]
    if getattr(layer.operator, "transposed", False):
        weight[feature, chosen] = u
    else:
        weight[first + chosen, feature % n_inner] = u
