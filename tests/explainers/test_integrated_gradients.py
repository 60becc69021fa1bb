"""Integrated gradients against Captum, and against what the method promises."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn
from zennit.attribution import IntegratedGradients as ZennitIntegratedGradients

import explainers
from explainers import Network
from explainers.affine_start import affine_end
from explainers.attribution import integrated_gradients
from explainers.quadratures import Quadrature, nodes_and_weights
from explainers.sampling import chunks
from tests.explainers.twins import network_twin, twin
from tests.explainers.zoo import small_network

pytestmark = pytest.mark.slow

# Nodes and weights are Captum's to the bit; what is left is the order of sums in float64.
TOLERANCE = {"rtol": 0, "atol": 1e-8}
QUADRATURES = get_args(Quadrature)
CAPTUMS = [name for name in QUADRATURES if name != "riemann_inclusive"]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("cnn", method) for method in CAPTUMS),
        pytest.param("resnet18", "gausslegendre", marks=pytest.mark.slow),
    ],
)
def test_maps_and_deltas_equal_captums(name: str, method: str) -> None:
    model, inputs = twin(name, "functions")
    inputs = inputs[:2]
    classes = torch.tensor([1, 4])
    expected, delta = IntegratedGradients(model).attribute(
        inputs, target=classes, n_steps=7, method=method, return_convergence_delta=True
    )
    network, _ = network_twin(name, "functions")
    bound = explainers.get("integrated_gradients")(network, n_steps=7, method=method)
    found = bound.explain(inputs, classes)
    torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, **TOLERANCE)


def test_captums_word_for_the_quadrature_is_understood_in_the_library() -> None:
    kind = explainers.method("integrated_gradients")
    assert kind(method="riemann_left") == kind(quadrature="riemann_left") != kind()
    known = {entry["name"]: entry["parameters"] for entry in explainers.available()}
    assert "method" not in known["integrated_gradients"]


@pytest.mark.parametrize("method", CAPTUMS)
def test_nodes_are_captums_in_another_default_type(method: str) -> None:
    model, inputs = twin("cnn", "modules")
    (network, _), before = network_twin("cnn", "modules"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        expected = IntegratedGradients(model).attribute(inputs, target=2, n_steps=7, method=method)
        bound = explainers.get("integrated_gradients")(network, n_steps=7, quadrature=method)
        found = bound.attribute(inputs, 2)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("baseline", ["number", "one", "each"])
def test_baselines_are_captums(baseline: str) -> None:
    model, inputs = twin("cnn", "modules")
    generator = torch.Generator().manual_seed(3)
    given = {
        "number": 0.3,
        "one": torch.randn(inputs[:1].shape, generator=generator, dtype=torch.float64),
        "each": torch.randn(inputs.shape, generator=generator, dtype=torch.float64),
    }[baseline]
    expected, delta = IntegratedGradients(model).attribute(
        inputs, baselines=given, target=2, n_steps=9, return_convergence_delta=True
    )
    network, _ = network_twin("cnn", "modules")
    bound = explainers.get("integrated_gradients")(network, baseline=given, n_steps=9)
    found = bound.explain(inputs, 2)
    torch.testing.assert_close(found.relevance, expected, **TOLERANCE)
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, **TOLERANCE)


def test_the_mean_gradient_alone_is_captums() -> None:
    model, inputs = twin("cnn", "modules")
    captum = IntegratedGradients(model, multiply_by_inputs=False)
    expected = captum.attribute(inputs, target=2, n_steps=9)
    network, _ = network_twin("cnn", "modules")
    found = explainers.explain(
        network, "integrated_gradients", inputs, 2, n_steps=9, multiply_by_inputs=False
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("preset", ["deepexplain", "innvestigate", "zennit"])
def test_presets_are_the_sums_of_the_other_tools(preset: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    n_steps = {"deepexplain": 100, "innvestigate": 64, "zennit": 20}[preset]
    first = 0.0 if preset == "innvestigate" else 1 / n_steps
    classes = network(inputs).argmax(1)
    total = torch.zeros_like(inputs)
    for node in torch.linspace(first, 1, n_steps).tolist():
        total += explainers.explain(network, "gradient", node * inputs, classes)
    found = explainers.explain(network, "integrated_gradients", inputs, preset=preset)
    # weights are rounded to float32: 1/100 is off by 2e-8 of itself
    torch.testing.assert_close(found, inputs * total / n_steps, rtol=1e-7, atol=1e-12)


def test_the_preset_zennit_is_zennits() -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    start = torch.eye(5, dtype=torch.float64)[torch.tensor([1, 4, 0])]
    with ZennitIntegratedGradients(model) as attributor:
        _, expected = attributor(inputs, start)
    found = explainers.explain(network, "integrated_gradients", inputs, [1, 4, 0], preset="zennit")
    # zennit's weight 1/20 is not rounded to float32, ours is: 1.5e-8 of the value
    torch.testing.assert_close(found, expected, rtol=3e-8, atol=1e-12)


def test_the_explained_class_is_that_of_the_sample_along_the_whole_path() -> None:
    network, inputs = network_twin("cnn", "modules")
    classes = network(inputs).argmax(1)
    assert not torch.equal(classes, network(torch.zeros_like(inputs)).argmax(1))
    predicted = explainers.explain(network, "integrated_gradients", inputs, "predicted")
    named = explainers.explain(network, "integrated_gradients", inputs, classes)
    torch.testing.assert_close(predicted, named, rtol=0, atol=0)


def test_the_delta_goes_to_zero_with_more_steps() -> None:
    network, inputs = network_twin("cnn", "modules")
    deltas = [
        explainers.get("integrated_gradients")(network, n_steps=n_steps)
        .explain(inputs)
        .arrays["convergence_delta"]
        for n_steps in (5, 500)
    ]
    scale = network(inputs).abs().amax()
    assert float(deltas[1].abs().max()) < 1e-3 * float(scale)
    assert float(deltas[1].abs().max()) < 0.1 * float(deltas[0].abs().max())


@pytest.mark.parametrize("elements", [1, 2 * 3 * 28 * 28 * 3, 2**30])
def test_the_size_of_a_chunk_changes_nothing_but_rounding(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = network_twin("cnn", "modules")
    expected = explainers.explain(network, "integrated_gradients", inputs)
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", elements)
    found = explainers.explain(network, "integrated_gradients", inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("limit", "expected"), [(7, [3, 1, *[6] * 5]), (2, [3, 1, *[2] * 15])])
def test_no_pass_has_more_rows_than_a_chunk(
    limit: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = network_twin("cnn", "modules")
    rows: list[int] = []
    run = Network.run

    def counted(self: Network, batch: torch.Tensor, **given: Any) -> dict[str, torch.Tensor]:
        rows.append(len(batch))
        return run(self, batch, **given)

    monkeypatch.setattr(Network, "run", counted)
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", limit * inputs[0].numel())
    explainers.explain(network, "integrated_gradients", inputs, n_steps=10)
    # the batch for its classes, the baseline for the delta, then chunks
    assert sorted(rows) == sorted(expected)


@pytest.mark.parametrize("baseline", [None, 0.3, "each"])
def test_what_is_done_once_for_all_steps_changes_nothing_but_rounding(
    baseline: float | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = network_twin("cnn", "modules")
    assert affine_end(network) == "conv1"
    given = inputs.flip(0) if baseline == "each" else baseline
    bound = explainers.get("integrated_gradients")(network, baseline=given, n_steps=5)
    found = bound.explain(inputs)
    monkeypatch.setattr(integrated_gradients, "affine_end", lambda network: None)
    expected = bound.explain(inputs)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=1e-13)
    delta = expected.arrays["convergence_delta"]
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, rtol=0, atol=1e-12)


class Forked(nn.Module):
    """Two maps of the input, both read by what is not affine."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x) * self.right(x)


def test_the_affine_start_ends_where_one_value_is_all_that_is_read() -> None:
    inputs = torch.randn(2, 4)
    assert affine_end(Network(Forked(), inputs)) is None
    assert affine_end(small_network()) == "bn1", "a norm is part of the convolution before it"


def test_an_opaque_model_is_integrated_too() -> None:
    linear = nn.Linear(4, 3).double()
    inputs = torch.randn(2, 4, dtype=torch.float64)

    def opaque(x: torch.Tensor) -> torch.Tensor:
        return linear(x) if float(x.detach().sum()) > -1e9 else x

    assert not Network(opaque, inputs).is_program
    found = explainers.explain(opaque, "integrated_gradients", inputs, target=1)
    # Captum's float32 weights sum to one within 1e-7.
    torch.testing.assert_close(found, inputs * linear.weight[1].detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", QUADRATURES)
def test_weights_sum_to_one_and_nodes_lie_on_the_path(method: Quadrature) -> None:
    nodes, weights = nodes_and_weights(method, 16)
    # The trapezoid's weights are Captum's: n nodes as if there were n intervals.
    expected = 1 - 1 / 16 if method == "riemann_trapezoid" else 1.0
    assert sum(weights) == pytest.approx(expected, abs=1e-6)
    assert all(0 <= node <= 1 for node in nodes)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_steps": 0}, "expected at least 1"),
        ({"n_steps": 1, "method": "riemann_left"}, "expected at least 2"),
        ({"method": "simpson"}, "expected gausslegendre or one of"),
    ],
)
def test_wrong_parameters_are_refused_at_once(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build("integrated_gradients", **params)


@pytest.mark.parametrize("n_steps", [2.5, "3", True, None])
def test_steps_that_are_no_whole_number_are_refused(n_steps: object) -> None:
    with pytest.raises(TypeError, match=r"got n_steps=.*, expected a whole number"):
        explainers.build("integrated_gradients", n_steps=n_steps)


def test_a_baseline_that_is_no_number_is_refused_before_any_sample() -> None:
    network, _ = network_twin("cnn", "modules")
    with pytest.raises(TypeError, match="got baseline 'black', expected"):
        explainers.get("integrated_gradients")(network, baseline="black")
    with pytest.raises(ValueError, match="NaN or infinite"):
        explainers.get("integrated_gradients")(network, baseline=float("nan"))


def test_a_baseline_that_does_not_fit_is_refused_before_any_sample() -> None:
    network, _ = network_twin("cnn", "modules")
    with pytest.raises(ValueError, match="one number a channel"):
        explainers.get("integrated_gradients")(network, baseline=(0.1, 0.2))
