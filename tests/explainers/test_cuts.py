"""Layers are explained, and explain: a part of a network is a network, and exact."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import torch
from captum.attr import (
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NeuronGradient,
    NeuronIntegratedGradients,
)
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace
from explainers.composites import find
from explainers.cut import Cut, begun, ended
from explainers.explaining import check, explained, form
from explainers.operators import Carried
from explainers.units import channel_axis
from tests.explainers.twins import network_twin
from tests.explainers.zoo import relative_error, small, small_network

if TYPE_CHECKING:
    from collections.abc import Callable

# both sum the same products of doubles in another order
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


class Gated(nn.Module):
    """A norm that a convolution takes in, a skip past it, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.gate, self.fc = nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        branch = self.norm(self.conv(hidden)) + hidden
        gate = self.gate(hidden.mean((2, 3))).sigmoid()
        return self.fc((self.relu(branch) * gate[:, :, None, None]).mean((2, 3)))


@functools.cache
def gated() -> tuple[Gated, Network, Tensor]:
    torch.manual_seed(0)
    model = Gated()
    nn.init.uniform_(model.norm.running_var, 0.3, 2.0)
    nn.init.normal_(model.norm.running_mean)
    model = model.double().eval()
    inputs = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    return model, Network(model, inputs), inputs


def sibling(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path)


@pytest.mark.parametrize("layer", ["stem", "conv", "norm", "relu", "gate"])
def test_layers_are_explained_as_captum_does(layer: str) -> None:
    model, network, inputs = gated()
    module = sibling(model, layer)
    found = explainers.explain(network, "input_x_gradient", inputs, 1, layer=layer)
    expected = LayerGradientXActivation(model, module).attribute(inputs, 1)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    found = explainers.explain(
        network, "integrated_gradients", inputs, 1, layer=layer, n_steps=4, baseline=0.3
    )
    by_captum = LayerIntegratedGradients(model, module)
    expected = by_captum.attribute(inputs, baselines=0.3, target=1, n_steps=4)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("layer", ["conv", "norm", "gate"])
def test_units_are_explained_as_captum_does(layer: str) -> None:
    model, network, inputs = gated()
    module = sibling(model, layer)
    single = [2, 1, 3] if layer != "gate" else [2]

    def one(value: Tensor) -> Tensor:
        return value[(slice(None), *single)]

    def channel(value: Tensor) -> Tensor:
        return value[:, 2].reshape(len(value), -1).sum(1)

    for unit, chosen in ((single, one), (2, channel)):
        target = {"layer": layer, "unit": unit}
        found = explainers.explain(network, "gradient", inputs, target)
        leaf = inputs.clone().requires_grad_()
        expected = NeuronGradient(model, module).attribute(leaf, chosen)
        torch.testing.assert_close(found, expected, **TOLERANCE)
    found = explainers.explain(network, "integrated_gradients", inputs, target, n_steps=4)
    by_captum = NeuronIntegratedGradients(model, module)
    torch.testing.assert_close(found, by_captum.attribute(inputs, channel, n_steps=4), **TOLERANCE)


def test_a_unit_is_explained_by_a_layer() -> None:
    model, network, inputs = gated()
    target = {"layer": "norm", "unit": 1}
    found = explainers.explain(network, "gradient", inputs, target, layer="stem")
    leaf = model.stem(inputs).detach().requires_grad_()
    (model.norm(model.conv(leaf)))[:, 1].sum().backward()
    torch.testing.assert_close(found, leaf.grad, **TOLERANCE)


def test_a_part_shares_its_values_with_the_whole() -> None:
    _, network, inputs = gated()
    trace = Trace(network, inputs)
    part = trace.starting_at("norm")
    assert part is trace.starting_at(["norm"])
    assert part.values["conv"].data_ptr() == trace.values["conv"].data_ptr()
    assert part.values["fc"] is trace.values["fc"]
    assert torch.equal(part.inputs, trace.layer("norm"))
    assert part.output is trace.output
    assert isinstance(part.network, Cut)
    assert part.network is begun(network, ("norm",))
    assert part.network.root is network
    before = trace.starting_at("conv")
    assert torch.equal(before.inputs, trace.layer("conv"))
    assert not torch.allclose(before.inputs, trace.layer("norm"))


def test_what_passes_by_is_carried_row_by_row() -> None:
    model, network, inputs = gated()
    trace = Trace(network, inputs)
    part = trace.starting_at("relu")
    (name,) = part.network.carried
    assert isinstance(part.network.operators[1], Carried)
    rows = torch.tensor([2, 0, 2, 1])
    other = part.at(torch.zeros_like(part.inputs)[rows] + 0.5, rows)
    assert torch.equal(other.values[name], trace.values[name][rows])
    gate = model.gate(model.stem(inputs).mean((2, 3))).sigmoid()[rows]
    expected = model.fc(gate * 0.5)
    torch.testing.assert_close(other.output, expected.detach(), **TOLERANCE)
    with pytest.raises(ValueError, match=r"trace.at\(inputs, rows\)"):
        part.network(part.inputs)


def test_the_reference_of_a_layer_has_what_passes_by() -> None:
    model, network, inputs = gated()
    part = Trace(network, inputs).starting_at("relu")
    reference = part.reference(None)
    hidden = model.stem(torch.zeros_like(inputs))
    expected = model.relu(model.norm(model.conv(hidden)) + hidden)
    torch.testing.assert_close(reference.inputs, expected.detach(), **TOLERANCE)
    assert part.baseline(torch.ones(4, 5, 5)).shape == (1, 4, 5, 5)
    rows = torch.tensor([1, 1, 0, 2])
    own = torch.randn_like(inputs)
    repeated = part.at(part.inputs[rows], rows).baseline(own)
    assert torch.equal(repeated, part.baseline(own)[rows])


@pytest.mark.parametrize("method", ["lrp", "deep_lift"])
@pytest.mark.parametrize("layer", ["conv", "norm", "relu"])
def test_rules_of_a_part_are_those_of_the_whole(method: str, layer: str) -> None:
    _, network, inputs = gated()
    trace = Trace(network, inputs)
    explainer = explainers.build(method, layer=layer)
    check(explainer, network)
    found = explained(explainer, trace, Target.parse(0))
    assert found.relevance.shape == trace.layer(layer).shape
    if method == "deep_lift":
        # every rule is exact, so what is left is rounding
        assert float(found.arrays["convergence_delta"].abs().max()) <= 1e-12


def test_relevance_behind_a_layer_is_that_of_the_whole() -> None:
    network, inputs = network_twin("cnn", "modules")
    trace, target = Trace(network, inputs), Target.parse(1)
    lrp = explainers.build("lrp")
    explained(lrp, trace, target)
    part = explained(explainers.build("lrp", layer="pool1"), trace, target).relevance
    (key,) = {key for key, _ in trace._walked}
    choose = find(lrp.composite).choose(network)
    start = trace.cotangent(target) * trace.output
    trace.walk(choose, target, key=key, start=start, record=["pool1"])
    assert relative_error(part, trace.relevance_at("pool1", target, key=key)) <= 1e-12


def test_patterns_and_suggestions_work_within_a_part() -> None:
    part = begun(small_network(), ("bn1",))
    assert part.match("conv*") == ("conv2", "conv2#1")
    assert part.layers[0] == "bn1"
    assert part.input_shape == (6, 8, 8)
    with pytest.raises(LookupError, match="did you mean 'conv2'"):
        part.match("conv3")
    upto = ended(small_network(), "conv1")
    assert upto.layers == ("conv1",)
    assert upto.n_outputs == 6 * 64
    assert not upto.has_softmax


@pytest.mark.slow
def test_a_part_moves_with_the_whole() -> None:
    _, network, _ = gated()
    moved = begun(network, ("relu",)).to(dtype=torch.float32)
    assert isinstance(moved, Cut)
    assert moved.dtype == torch.float32
    assert moved.input_shape == (4, 5, 5)
    assert ended(network, "conv").to(dtype=torch.float32).n_outputs == 4 * 25


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv1d(2, 2, 1)
        self.pad, self.conv = nn.ConstantPad1d(1, 0.0), nn.Conv1d(2, 3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv(self.pad(self.before(inputs))).mean(2)


def test_zeros_that_a_convolution_took_in_are_no_start_but_an_end() -> None:
    network = Network(Padded().double(), torch.randn(2, 2, 5, dtype=torch.float64))
    inputs = torch.randn(2, 2, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"start at 'before'.*convolution 'conv'"):
        explainers.explain(network, "gradient", inputs, layer="pad")
    found = explainers.explain(network, "gradient", inputs, {"layer": "pad", "unit": [0, 0]})
    assert torch.equal(found, torch.zeros_like(found))


class Mixed(nn.Module):
    """Channels that go from the first axis to the last and back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 6, 3), nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.conv(inputs).flatten(2).transpose(1, 2)
        turned = self.linear(tokens).relu().transpose(1, 2)
        return torch.cat([turned, turned], 1).mean(2)


def test_a_channel_is_found_wherever_its_axis_is() -> None:
    network = Network(Mixed().double(), torch.randn(2, 2, 5, 5, dtype=torch.float64))
    found = {layer: channel_axis(network, layer) for layer in network.layers}
    assert found == {
        "conv": 0,
        "view#0": 0,
        "transpose#0": 1,
        "linear": 1,
        "relu#0": 1,
        "transpose#1": 0,
        "cat#0": 0,
        "mean#0": 0,
    }


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda: {"layer": "stam"}, LookupError, "did you mean 'stem'"),
        (lambda: {"layer": "relu", "target": ("conv", 0)}, ValueError, "'relu' is not between"),
        (lambda: {"layer": "gate", "target": ("norm", 0)}, ValueError, "'gate' is not between"),
        (lambda: {"target": ("norm", 4)}, ValueError, "give a channel below 4, or 3 indices"),
        (lambda: {"target": ("norm", [0, 1])}, ValueError, "unit .* does not exist"),
        (lambda: {"target": ("nurm", 0)}, LookupError, "did you mean 'norm'"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    ask: Callable[[], dict[str, object]], error: type[Exception], words: str
) -> None:
    _, network, inputs = gated()
    asked = ask()
    target = asked.pop("target", None)
    if isinstance(target, tuple):
        target = {"layer": target[0], "unit": target[1]}
    with pytest.raises(error, match=words):
        explainers.explain(network, "gradient", inputs, target, **asked)
    with pytest.raises(error, match=words):
        check(explainers.build("gradient", **asked), network, Target.parse(target))


def test_an_opaque_network_has_no_layers() -> None:
    def opaque(inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else -inputs

    inputs = torch.ones(2, 3)
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        explainers.explain(opaque, "gradient", inputs, layer="fc")
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        explainers.explain(opaque, "gradient", inputs, {"layer": "fc", "unit": 0})


def test_the_form_of_a_map_follows_the_layer() -> None:
    network = small_network()
    dims = ("channel", "height", "width")
    assert form(explainers.build("gradient"), network) == {"": (dims, (3, 8, 8))}
    assert form(explainers.build("lrp", layer="pool"), network) == {"": (dims, (6, 4, 4))}
    assert form(explainers.build("lrp", layer="fc"), network) == {"": (("feature_0",), (5,))}


def test_explainers_of_a_batch_share_parts_and_walks() -> None:
    _, inputs = small()
    trace, target = Trace(small_network(), inputs), Target.parse({"layer": "conv2", "unit": 1})
    for name in ("gradient", "saliency"):
        explained(explainers.build(name, layer="bn1"), trace.named(name), target)
    ended_, plain = trace.ending_at(target)
    part = ended_.starting_at("bn1")
    assert len(part._walked) == 1
    assert part.gradient(plain) is part.gradient(plain)
    torch.testing.assert_close(trace.selected(target), trace.layer("conv2")[:, 1].sum((1, 2)))
