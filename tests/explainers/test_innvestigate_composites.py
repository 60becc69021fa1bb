"""iNNvestigate's presets, and deep Taylor decomposition, against slow re-implementations."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network
from explainers.composites import find
from explainers.composites.named import ALIASES
from tests.explainers.twins import pictures, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

# The same float64 sums in another order; relevance is about 0.1.
TOLERANCE = {"rtol": 0, "atol": 1e-9}
LOW, HIGH = -6.0, 7.0

Layer = Any
Parts = list[tuple["Callable[[Tensor], Tensor]", Tensor]]
"""Linear functions without bias, and what they are applied to."""


@functools.cache
def sequence() -> tuple[nn.Sequential, Network, Tensor]:
    layers = [
        *(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(5, 4, 2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
    ]
    model = seeded(nn.Sequential(*layers), seed=2)
    inputs = pictures(3, 6)
    return model, Network(model, inputs), inputs  # type: ignore[return-value]


def applied(layer: Layer, weight: Tensor) -> Callable[[Tensor], Tensor]:
    if isinstance(layer, nn.Linear):
        return functools.partial(nn.functional.linear, weight=weight)
    return functools.partial(nn.functional.conv2d, weight=weight, padding=layer.padding)


def shared(parts: Parts, bias: Tensor | None, relevance: Tensor, epsilon: float = 0.0) -> Tensor:
    """Return ``sum of x * W^T (R / z)``; a zero z counts as 1e-7, others get epsilon added."""
    leaves = [x.clone().requires_grad_() for _, x in parts]
    with torch.enable_grad():
        terms = [function(leaf) for (function, _), leaf in zip(parts, leaves, strict=True)]
        total = torch.stack(terms).sum(0)
    z = total.detach()
    if bias is not None:
        z = z + bias.view(-1, *(1,) * (z.ndim - 2))
    z = torch.where(z >= 0, z + epsilon, z - epsilon)
    z = torch.where(z == 0, 1e-7, z)
    gradients = torch.autograd.grad(total, leaves, relevance / z)
    products = [leaf.detach() * one for leaf, one in zip(leaves, gradients, strict=True)]
    return torch.stack(products).sum(0)


def by_epsilon(
    layer: Layer, x: Tensor, relevance: Tensor, epsilon: float, is_biased: bool = True
) -> Tensor:
    bias = layer.bias if is_biased else None
    return shared([(applied(layer, layer.weight), x)], bias, relevance, epsilon)


def by_signs(layer: Layer, x: Tensor, relevance: Tensor, alpha: float, is_biased: bool) -> Tensor:
    positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    above, below = x.clamp(min=0), x.clamp(max=0)
    bias = layer.bias if is_biased else torch.zeros_like(layer.bias)
    first = [(applied(layer, positive), above), (applied(layer, negative), below)]
    second = [(applied(layer, negative), above), (applied(layer, positive), below)]
    found = alpha * shared(first, bias.clamp(min=0), relevance)
    if alpha > 1:
        found -= (alpha - 1) * shared(second, bias.clamp(max=0), relevance)
    return found


def by_weights(layer: Layer, x: Tensor, relevance: Tensor, weight: Tensor) -> Tensor:
    return shared([(applied(layer, weight), torch.ones_like(x))], None, relevance)


def by_bounds(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    low, high = torch.full_like(x, LOW), torch.full_like(x, HIGH)
    of_box = [(applied(layer, -positive), low), (applied(layer, -negative), high)]
    return shared([(applied(layer, layer.weight), x), *of_box], None, relevance)


def slow_flat(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    return by_weights(layer, x, relevance, torch.ones_like(layer.weight))


def slow_square(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    return by_weights(layer, x, relevance, layer.weight.square())


Z = functools.partial(by_epsilon, epsilon=0.0)
EPSILON = functools.partial(by_epsilon, epsilon=1e-7)
DENSE = functools.partial(by_epsilon, epsilon=0.1)
ALPHA_1 = functools.partial(by_signs, alpha=1.0, is_biased=True)
ALPHA_3 = functools.partial(by_signs, alpha=3.0, is_biased=True)
ALPHA_2 = functools.partial(by_signs, alpha=2.0, is_biased=True)
ALPHA_1_IB = functools.partial(by_signs, alpha=1.0, is_biased=False)
ALPHA_2_IB = functools.partial(by_signs, alpha=2.0, is_biased=False)

UNTIL = {"name": "lrp_sequential_preset_b_flat_until_idx", "until_layer_idx": 1}
BOUNDED = {"name": "deep_taylor_bounded", "low": LOW, "high": HIGH}
PRESETS: dict[str, tuple[Any, list[Any]]] = {
    "z": ("lrp_z", [Z] * 4),
    "epsilon": ("lrp_epsilon", [EPSILON] * 4),
    "z_ib": ("lrp_z_ib", [functools.partial(Z, is_biased=False)] * 4),
    "epsilon_ib": ("lrp.epsilon_IB", [functools.partial(EPSILON, is_biased=False)] * 4),
    "w_square": ("lrp_w_square", [slow_square] * 4),
    "flat": ("lrp_flat", [slow_flat] * 4),
    "alpha_2_beta_1": ("lrp_alpha_2_beta_1", [ALPHA_2] * 4),
    "alpha_2_beta_1_ib": ("lrp_alpha_2_beta_1_ib", [ALPHA_2_IB] * 4),
    "alpha_1_beta_0": ("lrp_alpha_1_beta_0", [ALPHA_1] * 4),
    "alpha_1_beta_0_ib": ("lrp_alpha_1_beta_0_ib", [ALPHA_1_IB] * 4),
    "alpha_3_beta_2": ({"name": "lrp.alpha_beta", "alpha": 3.0, "beta": 2.0}, [ALPHA_3] * 4),
    "alpha_2": (
        {"name": "lrp_alpha_beta", "alpha": 2.0, "bias": False},
        [ALPHA_2_IB] * 4,
    ),
    "z_plus": ("lrp_z_plus", [ALPHA_1_IB] * 4),
    "z_plus_fast": ("lrp_z_plus_fast", [ALPHA_1_IB] * 4),
    "a": ("lrp_sequential_preset_a", [ALPHA_1, ALPHA_1, DENSE, DENSE]),
    "a_flat": ("lrp_sequential_preset_a_flat", [slow_flat, ALPHA_1, DENSE, DENSE]),
    "b": ("lrp_sequential_preset_b", [ALPHA_2, ALPHA_2, DENSE, DENSE]),
    "b_flat": ("lrp_sequential_preset_b_flat", [slow_flat, ALPHA_2, DENSE, DENSE]),
    "b_flat_until_1": (UNTIL, [slow_flat, slow_flat, DENSE, DENSE]),
    "deep_taylor": ("deep_taylor", [slow_square, *[ALPHA_1_IB] * 3]),
    "deep_taylor_theirs": ({"name": "deep_taylor", "first": "z_plus"}, [ALPHA_1_IB] * 4),
    "deep_taylor_bounded": (BOUNDED, [by_bounds, *[ALPHA_1_IB] * 3]),
}


def by_value(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """Share by value in a window; equally where all values are zero, which theirs loses."""
    empty = relevance.where(layer(x) == 0, 0.0)
    return shared([(layer, x)], None, relevance) + by_gradient(layer, x, empty)


def by_gradient(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(layer(leaf), leaf, relevance)[0]


def slow(rules: list[Any], start: Tensor) -> Tensor:
    model, _, inputs = sequence()
    values = [inputs]
    for layer in model:
        values.append(layer(values[-1]).detach())
    weighted = iter(reversed(rules))
    relevance = start
    for layer, x in zip(reversed(model), reversed(values[:-1]), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            relevance = next(weighted)(layer, x, relevance).detach()
        elif isinstance(layer, nn.AvgPool2d):
            relevance = by_value(layer, x, relevance).detach()
        elif not isinstance(layer, nn.ReLU):
            relevance = by_gradient(layer, x, relevance)
    return relevance


def output(index: int = 0) -> tuple[Tensor, Tensor]:
    """Return relevance that starts at one class, and that class for each row."""
    _, network, inputs = sequence()
    logits = network(inputs)
    classes = logits.argsort(1, descending=True)[:, index]
    return logits * nn.functional.one_hot(classes, 3), classes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_innvestigates(name: str) -> None:
    composite, rules = PRESETS[name]
    _, network, inputs = sequence()
    start, classes = output()
    found = explainers.explain(network, "lrp", inputs, classes, composite=composite)
    torch.testing.assert_close(found, slow(rules, start), **TOLERANCE)


@pytest.mark.parametrize("name", ALIASES)
def test_innvestigates_names_have_dots(name: str) -> None:
    given = {
        "lrp.alpha_beta": {"alpha": 2.0},
        "deep_taylor.bounded": {"low": 0.0, "high": 1.0},
        "lrp.sequential_preset_b_flat_until_idx": {"until_layer_idx": 1},
    }.get(name, {})
    ours = name.replace(".", "_").lower()
    assert find({"name": name, **given}) == find({"name": ours, **given})


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_what_is_a_method_here_is_said_to_be(name: str) -> None:
    with pytest.raises(LookupError, match=f"'{name}' is a method of its own .* method: {name}"):
        explainers.build("lrp", composite=name)


def test_parameters_of_alpha_beta_are_checked() -> None:
    with pytest.raises(ValueError, match="expected alpha - beta = 1"):
        find({"name": "lrp_alpha_beta", "alpha": 2.0, "beta": 2.0})
    with pytest.raises(TypeError, match="needs the parameters alpha"):
        find("lrp.alpha_beta")
    without = find({"name": "lrp_alpha_beta", "alpha": 2.0, "zero_params": "bias"})
    _, network, inputs = sequence()
    expected = explainers.explain(network, "lrp", inputs, composite="lrp_alpha_2_beta_1_ib")
    assert torch.equal(explainers.explain(network, "lrp", inputs, composite=without), expected)


def test_epsilon_of_dense_layers_can_be_set() -> None:
    _, network, inputs = sequence()
    start, classes = output()
    composite = "lrp_sequential_preset_a"
    dense = functools.partial(by_epsilon, epsilon=0.2)
    expected = slow([ALPHA_1, ALPHA_1, dense, dense], start)
    found = explainers.explain(network, "lrp", inputs, classes, composite=composite, epsilon=0.2)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    options = {"composite": composite, "preset": "rde"}
    found = explainers.explain(network, "lrp", inputs, classes, **options)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_empty_windows_share_equally_where_innvestigate_loses_their_relevance() -> None:
    """Rules that look at no values, as `flat`, hand relevance to pools of nothing but zeros."""
    model, network, inputs = sequence()
    start, classes = output()
    bound = explainers.get("lrp")(network, composite="lrp_flat")
    found = bound.explain(inputs, classes)
    assert bool((model[:3](inputs) == 0).any())
    torch.testing.assert_close(found.relevance.sum((1, 2, 3)), start.sum(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "rules"),
    [
        ({}, [slow_square, *[ALPHA_1_IB] * 3]),
        ({"preset": "innvestigate"}, [ALPHA_1_IB] * 4),
        ({"low": LOW, "high": (HIGH, HIGH, HIGH)}, [by_bounds, *[ALPHA_1_IB] * 3]),
    ],
)
def test_deep_taylor_decomposes_the_positive_part(
    parameters: dict[str, Any], rules: list[Any]
) -> None:
    _, network, inputs = sequence()
    for index in (0, 2):
        start, classes = output(index)
        bound = explainers.get("deep_taylor")(network, **parameters)
        found = bound.explain(inputs, classes)
        expected = slow(rules, start.clamp(min=0))
        torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
        assert bool((found.relevance >= 0).all())
        total = found.relevance.sum((1, 2, 3)) + found.arrays["lost"]
        torch.testing.assert_close(total, start.clamp(min=0).sum(1), rtol=0, atol=1e-12)


def test_bounds_may_be_those_of_each_sample() -> None:
    _, network, inputs = sequence()
    found = explainers.explain(network, "deep_taylor", inputs, 1, preset="rde")
    for row, sample in enumerate(inputs):
        bounds = {"low": float(sample.min()), "high": float(sample.max())}
        alone = explainers.explain(network, "deep_taylor", sample[None], 1, **bounds)
        torch.testing.assert_close(found[row], alone[0], rtol=0, atol=1e-12)


class Block(nn.Module):
    """A residual sum of a signed and a nonnegative term."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(self.activation(self.second(x) + x))


def test_deep_taylor_counts_a_residual_once_where_innvestigate_counts_it_twice() -> None:
    """Its gradient hands all relevance to both terms; ours is shared by their positive parts."""
    inputs = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = seeded(Block(nn.ReLU()))
    network = Network(model, inputs)
    found = explainers.get("deep_taylor")(network).explain(inputs, 0)
    total = found.relevance.sum(1) + found.arrays["lost"]
    torch.testing.assert_close(total, network(inputs)[:, 0].clamp(min=0), rtol=0, atol=1e-12)
    assert bool((found.relevance >= 0).all())
    assert float(found.relevance.abs().sum()) > 0


def test_deep_taylor_is_for_relus() -> None:
    inputs = torch.randn(2, 4, dtype=torch.float64)
    network = Network(seeded(Block(nn.GELU())), inputs)
    with pytest.raises(NotImplementedError, match=r"ReLUs.*Activation\(gelu\).*'activation'"):
        explainers.get("deep_taylor")(network)


@pytest.mark.parametrize("given", [{"low": 0.0}, {"high": 1.0}, {"low": "max", "high": "min"}])
def test_deep_taylor_wants_both_bounds(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got low="):
        explainers.build("deep_taylor", **given)
    with pytest.raises(TypeError, match="'deep_taylor_bounded' needs the parameters low, high"):
        explainers.build("lrp", composite="deep_taylor_bounded")
