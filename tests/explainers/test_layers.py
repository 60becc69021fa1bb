"""Layers are named by module path and hold what a hook on the module sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainers.network import Network
from explainers.operators import Convolution
from tests.explainers.zoo import disagreeing, hooked, small, small_network


def test_layers_hold_what_hooks_see() -> None:
    model, inputs = small()
    assert disagreeing(small_network(), hooked(model, inputs), inputs) == []


def test_names_follow_paths_calls_and_owners() -> None:
    assert [op.name for op in small_network().operators] == [
        "input",
        "conv1",
        "relu",
        "conv2",
        "add#0",
        "relu#0",
        "conv2#1",
        "relu#1",
        "pool",
        "view#0",
        "fc",
    ]
    network = small_network()
    assert network.operator("bn1").name == "conv1"
    assert network.operator("drop").name == "pool"
    assert "conv2#1" in network.layers
    assert {"relu", "relu#1"} <= set(network.layers)


def test_functional_nodes_are_called_after_their_owner() -> None:
    class Block(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return functional.relu(inputs + functional.relu(inputs) * 0.5) * 2

    network = Network(nn.Sequential(Block(), Block()), torch.randn(2, 3))
    assert set(network.layers) >= {"0.relu#0", "0.relu#1", "0.add#0", "0.mul#0", "1.relu#0", "0"}


def test_names_are_unique_when_a_block_is_reused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

        def forward(self, inputs: Tensor) -> Tensor:
            return self.block(self.block(inputs) + 1)

    network = Network(Twice(), torch.randn(2, 3))
    names = [op.name for op in network.operators]
    assert len(set(names)) == len(names)
    assert {"block.0", "block.0#1", "block", "block#1"} <= set(network.layers)


def test_a_module_called_input_does_not_clash_with_the_input() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.input(inputs)

    network = Network(Model(), torch.randn(2, 3))
    assert network.layers == ("input",)
    assert network.operators[0].name != "input"


def test_a_folded_norm_is_an_alias_and_both_values_can_be_had() -> None:
    model, inputs = small()
    network = small_network()
    values = network.run(inputs)
    with torch.no_grad():
        convolved = model.conv1(inputs)
        torch.testing.assert_close(network.value("conv1", values), convolved)
        torch.testing.assert_close(network.value("bn1", values), model.bn1(convolved))
        torch.testing.assert_close(values["conv1"], model.bn1(convolved))


def test_patterns_match_the_whole_path() -> None:
    network = small_network()
    assert network.match("conv?") == ("conv1", "conv2")
    assert network.match("*conv*") == ("conv1", "conv2", "conv2#1")
    assert network.match(["fc", "conv1"]) == ("conv1", "fc")


def test_patterns_match_operator_classes() -> None:
    network = small_network()
    names = network.match("type:Convolution")
    assert names == ("conv1", "conv2", "conv2#1")
    assert all(isinstance(network.operator(name), Convolution) for name in names)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("conv3", "did you mean 'conv2'"),
        ("nothing*", "no layer matches"),
        ("type:Convolutoin", "did you mean 'Convolution'"),
        ("type:Attention", "there are: .*Convolution"),
    ],
)
def test_an_unknown_layer_is_an_error_that_helps(pattern: str, words: str) -> None:
    with pytest.raises(LookupError, match=words):
        small_network().match(pattern)


class Mixed(nn.Module):
    """Uses a module called relu twice, and the function as often."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.first, self.second, self.third, self.last = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.second(self.relu(self.first(inputs))))
        inner = self.third(hidden)
        outer = self.last(functional.relu(inner))
        return self.relu(outer) + outer + inner


@pytest.mark.parametrize("is_inner", [False, True])
def test_functions_are_not_called_what_a_module_is(is_inner: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Mixed(), nn.Linear(3, 2)) if is_inner else Mixed()
    inputs = torch.randn(4, 3)
    network = Network(model, inputs)
    assert network.is_program, network.reason
    names = [op.name for op in network.operators]
    owner = "0." if is_inner else ""
    assert len(set(names)) == len(names)
    assert [name for name in names if "relu" in name] == [
        f"{owner}{name}" for name in ("relu", "relu#0", "relu#2", "relu#1")
    ]
    assert disagreeing(network, hooked(model, inputs), inputs) == []
