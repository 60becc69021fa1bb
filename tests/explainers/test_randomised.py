"""Networks with random layers, against the model initialised anew by hand."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace
from explainers.cut import ended
from explainers.randomised import Randomisation, randomised
from explainers.reweighted import tensors_of
from explainers.sampling.counted import seed_of
from tests.explainers.randomisable import ORDER, Scale, pictures, small_model, small_network

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def model() -> nn.Module:
    return small_model()


@pytest.fixture
def network() -> Network:
    return small_network()


def initialised(model: nn.Module, layers: Sequence[str], seed: int) -> nn.Module:
    """Return the model with layers that are initialised one by one."""
    made = copy.deepcopy(model)
    for path in layers:
        torch.manual_seed(seed_of(f"{seed}\0{path}"))
        layer: Any = made.get_submodule(path)
        if isinstance(layer, Scale):
            before = layer.factor.detach().clone()
            spread = before.std(correction=0)
            layer.factor.data = torch.randn(6, dtype=torch.float64) * spread + before.mean()
        else:
            layer.reset_parameters()
    return made


@pytest.mark.parametrize(
    "order",
    [
        "top_down",
        *(pytest.param(order, marks=pytest.mark.slow) for order in ("bottom_up", "independent")),
    ],
)
def test_networks_are_those_of_the_model_initialised_layer_by_layer(
    order: Any, model: nn.Module, network: Network
) -> None:
    inputs = pictures()
    steps = randomised(network, Randomisation(order=order, seed=5))
    layers = ORDER[::-1] if order == "bottom_up" else ORDER
    assert [step.layers for step in steps] == [(layer,) for layer in layers]
    for count, step in enumerate(steps, start=1):
        chosen = layers[count - 1 : count] if order == "independent" else layers[:count]
        by_hand = initialised(model, chosen, 5)
        # one folds the norm in, the other does not: the rounding of float64
        torch.testing.assert_close(step.network(inputs), by_hand(inputs), rtol=1e-9, atol=1e-12)
        leaf = inputs.clone().requires_grad_()
        (expected,) = torch.autograd.grad(by_hand(leaf)[:, 1].sum(), leaf)
        found = Trace(step.network, inputs).gradient(Target("index", 1))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_model_and_the_state_of_randomness_are_left_alone(
    model: nn.Module, network: Network
) -> None:
    inputs = pictures()
    before, state = network(inputs), torch.get_rng_state()
    randomised(network, Randomisation(seed=6))
    torch.testing.assert_close(network(inputs), before, rtol=0, atol=0)
    torch.testing.assert_close(network.module(inputs), model(inputs), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_neighbouring_layers_become_random_together(network: Network) -> None:
    every = randomised(network, Randomisation(seed=5))
    few = randomised(network, Randomisation(seed=5, n_steps=2))
    assert [step.layers for step in few] == [("head", "scale"), ("hidden", "norm", "conv")]
    inputs = pictures()
    for one, other in ((few[0], every[1]), (few[1], every[4])):
        torch.testing.assert_close(one.network(inputs), other.network(inputs), rtol=0, atol=0)


def test_patterns_choose_layers_and_the_others_stay(network: Network) -> None:
    steps = randomised(network, Randomisation(layers=("con*", "head")))
    assert [step.layers for step in steps] == [("head",), ("conv",)]
    weights = [dict(step.network.module.named_parameters()) for step in steps]
    assert weights[1]["hidden.weight"] is dict(network.module.named_parameters())["hidden.weight"]
    with pytest.raises(LookupError, match="'convolution'; known are: conv, head"):
        randomised(network, Randomisation(layers=("convolution",)))


def test_a_part_that_ends_at_a_layer_has_no_layers_behind_it(network: Network) -> None:
    part = ended(network, "hidden")
    steps = randomised(part, Randomisation(seed=5))
    assert [step.layers for step in steps] == [("hidden",), ("norm",), ("conv",)]
    whole = randomised(network, Randomisation(seed=5, layers=("hidden", "norm", "conv")))
    inputs = pictures()
    hidden = Trace(whole[-1].network, inputs).layer("hidden")
    torch.testing.assert_close(steps[-1].network(inputs), hidden, rtol=1e-12, atol=0)


def test_they_are_made_once_and_take_the_memory_of_one_more_network(network: Network) -> None:
    steps = randomised(network, Randomisation(seed=7))
    assert randomised(network, Randomisation(seed=7)) is steps

    def size(networks: list[Network]) -> int:
        held = [each for net in networks for _, each in tensors_of(net.module)]
        held += [
            value
            for net in networks
            for op in net.operators
            for value in vars(op).values()
            if isinstance(value, Tensor)
        ]
        return sum({each.data_ptr(): each.nbytes for each in held}.values())

    # the convolution is folded anew when the norm has changed and when it has itself
    slack = 3 * 2 * 2 * 9 * 8
    assert size([network, *(step.network for step in steps)]) <= 2 * size([network]) + slack


@pytest.mark.slow
def test_layers_and_weights_of_quantus_are_drawn_as_it_does(
    model: nn.Module, network: Network
) -> None:
    steps = randomised(network, Randomisation(seed=42, compat="quantus"))
    names = [name for name, each in model.named_modules() if hasattr(each, "reset_parameters")]
    assert [step.layers for step in steps] == [(name,) for name in reversed(names)]
    by_hand = copy.deepcopy(model)
    inputs = pictures()
    for step in steps:
        torch.manual_seed(43)
        layer: Any = by_hand.get_submodule(step.layers[0])
        layer.reset_parameters()
        torch.testing.assert_close(step.network(inputs), by_hand(inputs), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_random_networks_do_not_outlive_theirs() -> None:
    network = Network(nn.Linear(3, 2), torch.zeros(1, 3))
    (step,) = randomised(network, Randomisation())
    seen, kept = weakref.ref(network), weakref.ref(step.network)
    del network, step
    gc.collect()
    assert seen() is None
    assert kept() is None


@pytest.mark.slow
def test_a_network_without_weights_is_refused() -> None:
    network = Network(nn.Flatten(), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="without a layer to randomise"):
        randomised(network, Randomisation())


class Unreadable(nn.Module):
    """Looks at a value, which no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        if float(hidden.detach().sum()) > 1e9:
            hidden = -hidden
        out: Tensor = self.last(torch.relu(hidden))
        return out


@pytest.mark.slow
def test_a_model_that_is_no_program_is_randomised_too() -> None:
    torch.manual_seed(0)
    model, inputs = Unreadable().double(), torch.randn(3, 4, dtype=torch.float64)
    network = Network(model, inputs)
    assert not network.is_program
    steps = randomised(network, Randomisation(seed=2))
    assert [step.layers for step in steps] == [("last",), ("first",)]
    expected = initialised(model, ["last", "first"], 2)(inputs)
    torch.testing.assert_close(steps[-1].network(inputs), expected)
    maps = explainers.explain(steps[-1].network, "gradient", inputs, 1)
    assert float(maps.abs().sum()) > 0


class Attending(nn.Module):
    """Attention with its projection in a function, a norm, and two uses of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, inputs: Tensor) -> Tensor:
        steps = torch.cat([self.token.expand(len(inputs), 1, 8), inputs], dim=1)
        found, _ = self.attention(steps, steps, steps, need_weights=False)
        out: Tensor = self.other(torch.tanh(self.one(self.norm(found[:, 0]))))
        return out


@pytest.mark.slow
def test_attention_tokens_and_shared_weights_become_random() -> None:
    torch.manual_seed(0)
    model, inputs = Attending().double().eval(), torch.randn(3, 5, 8, dtype=torch.float64)
    model.norm.weight.data.uniform_(0.5, 1.5)
    network = Network(model, inputs)
    assert network.is_program, network.reason
    steps = randomised(network, Randomisation())
    layers = {layer for step in steps for layer in step.layers}
    assert layers == {"", "attention", "attention.out_proj", "norm", "one", "other"}
    last = steps[-1].network
    torch.testing.assert_close(last(inputs), last.module(inputs), rtol=1e-9, atol=1e-12)
    trained, random = dict(model.named_parameters()), dict(last.module.named_parameters())
    for name, values in trained.items():
        is_zero = not bool(values.any()) and not bool(random[name].any())
        assert is_zero or not torch.equal(values, random[name]), name
    module: Any = last.module
    assert module.one.weight is module.other.weight
