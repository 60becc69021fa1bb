"""A trace of which only gradients are asked keeps less, and gives the same."""

import torch
from torch import nn

import explainers
from explainers import Network, Target, Trace
from explainers.kept import unread_by_gradients
from tests.explainers.zoo import small_network


def test_what_goes_into_a_relu_is_not_kept_for_gradients_and_is_there_when_asked_for() -> None:
    network = small_network()
    inputs = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    whole = Trace(network, inputs)
    lean = Trace(network, inputs, for_gradients=True)
    target = Target.parse(None)
    assert torch.equal(lean.gradient(target), whole.gradient(target))
    unread = unread_by_gradients(network)
    assert {type(network.operator(name)).__name__ for name in unread} == {"Convolution", "Add"}
    assert not unread & lean.values.kept.keys()
    assert list(lean.values) == list(whole.values)
    for name, value in whole.values.items():
        assert torch.equal(lean.values[name], value)


def test_norms_alone_gates_and_chains_of_linear_maps_have_the_same_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.GLU(),
    )
    model = model.double().eval()
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    network = Network(model, inputs)
    assert unread_by_gradients(network)
    leaf = inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    found = explainers.explain(network, "gradient", inputs, 1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_traces_of_a_part_keep_less_too() -> None:
    network = small_network()
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    target = Target.parse({"layer": "conv2", "unit": 1})
    for start in ("conv1", "relu"):
        whole = Trace(network, inputs).starting_at(start)
        lean = Trace(network, inputs, for_gradients=True).starting_at(start)
        assert torch.equal(lean.inputs, whole.inputs)
        assert torch.equal(lean.gradient(Target.parse(0)), whole.gradient(Target.parse(0)))
        moved = whole.inputs + 1
        found, expected = lean.at(moved), whole.at(moved)
        assert torch.equal(found.gradient(Target.parse(0)), expected.gradient(Target.parse(0)))
    ended, plain = Trace(network, inputs, for_gradients=True).ending_at(target)
    expected, _ = Trace(network, inputs).ending_at(target)
    assert torch.equal(ended.gradient(plain), expected.gradient(plain))
