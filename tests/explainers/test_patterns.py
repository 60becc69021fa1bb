"""Patterns against regressions and sums over positions; methods that use them, step by step."""

from __future__ import annotations

import copy
import functools
import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network, Trace
from explainers.operators import Activation, Affine, Multiply
from explainers.rules.pattern import pattern
from tests.explainers.twins import network_twin, pictures, seeded, twin
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

# Sums of some hundred terms of about one, in float64.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}

LAYERS = {
    "strided": nn.Conv2d(4, 3, (3, 2), stride=2, padding=1, dilation=(1, 2)),
    "grouped": nn.Conv2d(4, 6, (3, 2), groups=2, padding=(1, 0), bias=False),
    "of_lines": nn.Conv1d(4, 4, 3, padding=1, groups=4),
    "of_volumes": nn.Conv3d(2, 3, 2, stride=(1, 2, 1)),
    "linear": nn.Linear(5, 4),
    "transposed": nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2),
}
SHAPES = {"of_lines": (4, 30), "transposed": (4, 30), "of_volumes": (2, 2, 6, 5)}


class Branches(nn.Module):
    """Every layer twice, before a ReLU and a tanh: one network, because reading takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ModuleDict({name: copy.deepcopy(of) for name, of in LAYERS.items()})
        self.tanh = nn.ModuleDict({name: copy.deepcopy(of) for name, of in LAYERS.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = []
        for function, layers in ((torch.relu, self.relu), (torch.tanh, self.tanh)):
            for name, layer in layers.items():
                seen = x.reshape(len(x), *SHAPES.get(name, (4, 6, 5)))
                ends.append(function(layer(seen)).flatten(1).sum(1))
        return torch.stack(ends, 1)


@functools.cache
def branches() -> tuple[nn.Module, torch.Tensor, dict[str, torch.Tensor]]:
    model, inputs = seeded(Branches()), rows((4, 6, 5))
    return model, inputs, explainers.scan(model, "patterns", inputs.split(5))


def rows(shape: tuple[int, ...], n: int = 12, seed: int = 0) -> torch.Tensor:
    """Return inputs that neither have mean zero nor vary equally."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    return scale * (torch.randn(n, *shape, generator=generator, dtype=torch.float64) + 0.3)


def patches(layer: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each output sees, ``(positions, out, in / groups, taps)``, and it itself."""
    n_axes = layer.weight.ndim - 2
    widths = [width for width in reversed(layer.padding) for _ in range(2)]
    padded, outputs = functional.pad(inputs, widths), layer(inputs).detach()
    per_group = layer.out_channels // layer.groups
    seen, values = [], []
    for place in itertools.product(*(range(size) for size in outputs.shape[2:])):
        taps = []
        for tap in itertools.product(*(range(size) for size in layer.kernel_size)):
            at = tuple(
                place[axis] * layer.stride[axis] + tap[axis] * layer.dilation[axis]
                for axis in range(n_axes)
            )
            taps.append(padded[(slice(None), slice(None), *at)])
        window = torch.stack(taps, -1).unflatten(1, (layer.groups, -1))
        seen.append(window.repeat_interleave(per_group, 1))
        values.append(outputs[(slice(None), slice(None), *place)])
    return torch.cat(seen), torch.cat(values)


def slow_pattern(
    weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, is_positive: bool
) -> torch.Tensor:
    """The paper's formulas, output by output; x is ``(positions, out, ...)``."""
    return slow_pattern_of(weight, x, y, (lambda y: y > 0) if is_positive else torch.isfinite)


def slow_pattern_of(
    weight: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    is_inside: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    found = torch.empty_like(weight)
    for output in range(len(weight)):
        seen, value = x[:, output].flatten(1), y[:, output]
        regime = is_inside(value)
        of_products = (seen[regime] * value[regime, None]).mean(0)
        product_of = seen[regime].mean(0) * value.mean()
        flat = weight[output].flatten()
        direction = (of_products - product_of) / (flat @ of_products - flat @ product_of)
        found[output] = direction.view_as(weight[output])
    return found


def test_gaussian_patterns_are_the_regression_on_the_output_and_signals_its_part() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.4], [-0.7, 0.9]], dtype=torch.float64)
    inputs = torch.randn(500, 2, generator=generator, dtype=torch.float64) @ mixing + 0.5
    model = seeded(nn.Sequential(nn.Linear(2, 3)))
    network = Network(model, inputs)
    patterns = explainers.scan(network, "patterns", inputs.split(50))
    outputs = model(inputs).detach()
    ones = torch.ones(500, 1, dtype=torch.float64)
    for output in range(3):
        design = torch.cat([outputs[:, output : output + 1], ones], 1)
        slopes = torch.linalg.lstsq(design, inputs).solution[0]
        torch.testing.assert_close(patterns["0"][output], slopes, **TOLERANCE)
        found = explainers.explain(network, "pattern_net", inputs, output, patterns=patterns)
        signal = outputs[:, output : output + 1] * slopes
        torch.testing.assert_close(found, signal, **TOLERANCE)


@pytest.mark.parametrize("function", ["relu", "tanh"])
@pytest.mark.parametrize("name", LAYERS)
def test_patterns_of_layers_are_the_papers(name: str, function: str) -> None:
    model, inputs, patterns = branches()
    layer = model.get_submodule(f"{function}.{name}")
    seen = inputs.reshape(len(inputs), *SHAPES.get(name, (4, 6, 5)))
    weight = layer.weight.detach()
    if name == "transposed":
        weight, x, y = plain_for_transposed(layer, seen)
    elif name == "linear":
        x = seen.flatten(0, -2)[:, None].expand(-1, len(weight), -1)
        y = layer(seen).detach().flatten(0, -2)
    else:
        x, y = patches(layer, seen)
    expected = slow_pattern(weight, x, y, is_positive=function == "relu")
    expected = expected.flip(-1) if name == "transposed" else expected
    torch.testing.assert_close(patterns[f"{function}.{name}"], expected, **TOLERANCE)


@pytest.mark.parametrize("regime", ["positive", "negative"])
def test_innvestigates_regimes_are_of_every_layer(regime: str) -> None:
    model = seeded(nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)))
    inputs = rows((2, 3, 3))
    is_inside = (lambda y: y > 0) if regime == "positive" else (lambda y: y <= 0)
    found = explainers.scan(model, "patterns", inputs.split(5), pattern_type=f"relu.{regime}")
    convolved = patches(model[0], inputs)
    behind = model[:3](inputs).detach()
    linear = behind[:, None].expand(-1, 3, -1), model[3](behind).detach()
    for layer, (x, y) in {"0": convolved, "3": linear}.items():
        weight = model.get_submodule(layer).weight.detach()
        assert bool(is_inside(y).any(0).all()), "an empty regime has no pattern"
        expected = slow_pattern_of(weight, x, y, is_inside)
        torch.testing.assert_close(found[layer], expected, **TOLERANCE)


def plain_for_transposed(
    layer: nn.ConvTranspose1d, inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a transposed convolution as one over an input with zeros between its values."""
    spaced = inputs.new_zeros(len(inputs), 4, 2 * inputs.shape[-1] - 1)
    spaced[..., ::2] = inputs
    plain = nn.Conv1d(4, 6, 3, padding=1, groups=2).double()
    with torch.no_grad():
        by_group = layer.weight.unflatten(0, (2, 2)).transpose(1, 2).flatten(0, 1)
        plain.weight.copy_(by_group.flip(-1))
        plain.bias.copy_(layer.bias)
    torch.testing.assert_close(plain(spaced), layer(inputs))
    return plain.weight.detach(), *patches(plain, spaced)


@pytest.mark.parametrize("pattern_type", ["relu", "linear", "relu.negative"])
def test_shards_come_to_what_one_pass_finds(pattern_type: str) -> None:
    network, _ = network_twin("cnn", "modules")
    # classes that come one after another: shards have different means
    batches = [pictures(3, 28, seed=seed) + shift for seed, shift in enumerate((0, 2, -1))]
    scan = explainers.build("patterns", pattern_type=pattern_type)
    once = explainers.scan(network, "patterns", [torch.cat(batches)], pattern_type=pattern_type)
    states = [scan.init()]
    for batch in batches:
        state = scan.update(scan.init(), Trace(network, batch), None)
        states.append(load(save({name: part.contiguous() for name, part in state.items()})))
    states.append(load(save(scan.init())))
    for order in (states, states[::-1]):
        total = scan.init()
        for state in order:
            total = scan.merge(total, state)
        for layer, found in scan.finalise(total).items():
            torch.testing.assert_close(found, once[layer], rtol=1e-9, atol=1e-10)
    assert set(once) == {"conv1", "conv2", "fc1", "fc2"}


@functools.cache
def half_dead() -> Network:
    """Return a network whose layer ``0`` has a constant output and one that is never positive."""
    model = seeded(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[2] = -100
    return Network(model, rows((4,)))


def test_an_output_that_never_varies_has_no_pattern() -> None:
    found = explainers.scan(half_dead(), "patterns", [rows((4,))])["0"]
    assert not found[1].any()
    assert not found[2].any(), "it is never positive"
    assert bool(found[[0, 3]].any(1).all())


def slow_way_back(
    model: nn.Module, patterns: dict[str, torch.Tensor], x: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """Go back through the twin ``cnn`` operator by operator, by `patterns` in place of weights."""
    first = model.conv1(x)
    pooled, places = functional.max_pool2d(first.relu(), 2, return_indices=True)
    second = model.conv2(pooled)
    third = model.fc1(functional.avg_pool2d(second.relu(), 2).flatten(1))
    back = start @ patterns["fc2"] * (third > 0) @ patterns["fc1"]
    back = back.view(len(x), 12, 3, 3) / 4
    back = functional.interpolate(back, scale_factor=2) * (second > 0)
    back = nn.grad.conv2d_input(pooled.shape, patterns["conv2"], back, stride=2)
    back = functional.max_unpool2d(back, places, 2) * (first > 0)
    return nn.grad.conv2d_input(x.shape, patterns["conv1"], back, padding=1)


@pytest.mark.parametrize("name", ["pattern_net", "pattern_attribution"])
def test_maps_go_back_by_patterns_or_their_product_with_weights(name: str) -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    patterns = explainers.scan(network, "patterns", [pictures(6, 28, seed=4)])
    directions = dict(patterns)
    if name == "pattern_attribution":
        directions |= {
            layer: found * model.get_submodule(layer).weight.detach()
            for layer, found in patterns.items()
        }
    classes = torch.tensor([2, 0, 3])
    output = model(inputs).detach()
    start = output * functional.one_hot(classes, 5)
    with torch.no_grad():
        expected = slow_way_back(model, directions, inputs, start)
    found = explainers.explain(network, name, inputs, classes, patterns=patterns)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    stored = {layer: values.numpy() for layer, values in patterns.items()}
    again = explainers.explain(network, name, inputs, classes, patterns=stored)
    torch.testing.assert_close(again, found, rtol=0, atol=0)


class Residual(nn.Module):
    """A sum of branches and a norm that no layer takes in; no zeros around inputs, no ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        x = x + self.conv(x)
        return self.head(self.pool(x).flatten(1))


def test_attribution_hands_on_all_of_the_output_through_sums_and_norms_too() -> None:
    model, inputs = seeded(Residual()), rows((3, 4, 4))
    patterns = explainers.scan(model, "patterns", [inputs])
    found = explainers.explain(model, "pattern_attribution", inputs, 2, patterns=patterns)
    expected = model(inputs).detach()[:, 2]
    torch.testing.assert_close(found.flatten(1).sum(1), expected, **TOLERANCE)


def test_a_norms_pattern_is_the_inverse_of_its_scale() -> None:
    scale = torch.tensor([2.0, -0.5, 0.0])
    norm = Affine(name="norm", module_path="", inputs=("x",), scale=scale, shift=scale)
    relevance = torch.tensor([[1.0, 3.0, 5.0]])
    (signal,) = pattern.find(norm)(norm, relevance, {})
    assert signal.tolist() == [[0.5, -6.0, 0.0]]
    (share,) = pattern.find(norm, "attribution")(norm, relevance, {})
    assert share.tolist() == relevance.tolist()


def test_a_unit_before_its_norm_hands_on_all_of_its_value() -> None:
    network = small_network()
    _, inputs = small()
    patterns = explainers.scan(network, "patterns", [inputs])
    found = explainers.explain(
        network, "pattern_attribution", inputs, {"layer": "conv1", "unit": 2}, patterns=patterns
    )
    # the unit is a sum over positions; those at the border give some of theirs to zeros
    inner = {"layer": "conv1", "unit": [2, 4, 4]}
    one = explainers.explain(network, "pattern_attribution", inputs, inner, patterns=patterns)
    value = Trace(network, inputs).layer("conv1")[:, 2]
    torch.testing.assert_close(one.flatten(1).sum(1), value[:, 4, 4], **TOLERANCE)
    assert found.shape == inputs.shape


def test_what_has_no_pattern_is_refused() -> None:
    smooth = Activation(name="act", module_path="", inputs=("x",), kind="gelu")
    with pytest.raises(NotImplementedError, match=r"'pattern' has no rule .* Activation\(gelu\)"):
        pattern.find(smooth)
    gate = Multiply(name="gate", module_path="", inputs=("x", "y"))
    with pytest.raises(NotImplementedError, match=r"Multiply.*integrated_gradients or deep_lift"):
        pattern.find(gate)
    empty = SimpleNamespace(operators=(), reason=None)
    with pytest.raises(NotImplementedError, match="neither convolutions nor matrix products"):
        explainers.build("patterns").check(empty)


def test_patterns_of_another_network_are_refused() -> None:
    network, inputs = half_dead(), rows((4,))
    with pytest.raises(ValueError, match=r"pattern_net got no patterns; pass patterns="):
        explainers.explain(network, "pattern_net", inputs)
    other = {"1": torch.zeros(2, 4)}
    with pytest.raises(LookupError, match="no pattern for layer '0', only for 1"):
        explainers.explain(network, "pattern_net", inputs, patterns=other)
    wrong = {"0": torch.zeros(4, 3), "2": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"layer '0' has shape \(4, 3\), its weight \(4, 4\)"):
        explainers.explain(network, "pattern_net", inputs, patterns=wrong)


def test_an_unknown_kind_of_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match=r"did you mean .relu\.positive."):
        explainers.build("patterns", pattern_type="relu_positive")
