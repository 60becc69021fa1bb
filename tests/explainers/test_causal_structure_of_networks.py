"""Structure of whole networks: who reads a channel is found by changing it, too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from explainers.causal.structure import structure_of
from explainers.network import Network
from tests.explainers.families import LARGE, SMALL, family
from tests.explainers.perturbed_units import assert_structure_is_what_moves

SLOW = ("resnet18", "small_vit")

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.long)
    for name in (*SMALL, *LARGE)
]


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_read_where_they_move_something(name: str) -> None:
    model, inputs = family(name)
    network = Network(model, inputs)
    assert_structure_is_what_moves(network, inputs, 1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "n_neurons"), [("resnet50", 24576), ("vgg16", 12416), ("convnext_tiny", 34560)]
)
def test_there_are_as_many_neurons_as_the_inputs_of_layers(name: str, n_neurons: int) -> None:
    network = Network(*family(name))
    layers = structure_of(network).layers
    assert sum(layer.n_neurons for layer in layers) == n_neurons
    assert [layer.name for layer in layers if layer.is_root] == [layers[0].name]


@pytest.mark.slow
def test_what_has_no_structure_is_refused() -> None:
    class Recurring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrence, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.recurrence(x)[0][:, -1])

    structure = structure_of(Network(Recurring(), torch.randn(2, 5, 3)))
    assert "Recurrent" in (structure.layer("head").refusal or "")
    with pytest.raises(NotImplementedError, match="Recurrent"):
        structure.passed_on("head", torch.ones(1, 1, dtype=torch.bool))
    without = Network(nn.Sequential(nn.Flatten(), nn.Softplus()), torch.randn(2, 5))
    with pytest.raises(ValueError, match="no output of the network is made of channels"):
        structure_of(without)
