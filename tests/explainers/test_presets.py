"""Presets: which methods have whose, and that rde's are those of its comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import explainers
from explainers import Trace
from explainers.attribution.integrated_gradients import IntegratedGradients
from pipeline.parameters import build
from tests.explainers.twins import network_twin

HAVE = {
    "deepexplain": {
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "epsilon_lrp",
        "deep_lift",
        "occlusion",
        "shapley_value_sampling",
    },
    "innvestigate": {
        "gradient",
        "saliency",
        "input_x_gradient",
        "deconvnet",
        "guided_backprop",
        "integrated_gradients",
        "smooth_grad",
        "smooth_grad_squared",
        "lrp",
        "deep_taylor",
        "pattern_net",
        "pattern_attribution",
        "random",
    },
    "zennit": {
        "gradient",
        "deconvnet",
        "guided_backprop",
        "excitation_backprop",
        "integrated_gradients",
        "smooth_grad",
        "lrp",
    },
    "rde": {
        "gradient",
        "saliency",
        "input_x_gradient",
        "deconvnet",
        "guided_backprop",
        "integrated_gradients",
        "smooth_grad",
        "smooth_grad_squared",
        "lrp",
        "deep_taylor",
        "random",
        "rate_distortion",
    },
    "acd_imagenet": {"agglomerative_contextual_decomposition"},
    "acd_mnist": {"agglomerative_contextual_decomposition"},
    "acd_text": {"agglomerative_contextual_decomposition"},
}


@pytest.mark.parametrize("preset", HAVE)
def test_one_preset_serves_every_method_that_its_owner_has(preset: str) -> None:
    for name in HAVE[preset]:
        explainers.build(name, preset=preset)
    others = {entry["name"] for entry in explainers.available() if preset in entry["presets"]}
    # noise settings, for what is made of the same copies
    assert others - HAVE[preset] <= {"smooth_grad_squared", "var_grad"}
    with pytest.raises(LookupError, match=f"'sobel' has no preset '{preset}'"):
        explainers.build("sobel", preset=preset)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("saliency", {"postprocess": "square"}),
        ("gradient", {"postprocess": "square"}),
        ("integrated_gradients", {"n_steps": 64, "quadrature": "riemann_inclusive"}),
        ("smooth_grad_squared", {"n_samples": 64, "noise_level": 0.3}),
    ],
)
def test_rdes_presets_are_those_of_its_comparison(method: str, params: dict[str, Any]) -> None:
    network, inputs = network_twin("cnn", "modules")
    if method == "integrated_gradients":
        least = torch.stack([row.min() for row in inputs])
        params = {**params, "baseline": least.view(-1, 1, 1, 1).expand_as(inputs)}
    found = explainers.explain(network, method, inputs, preset="rde")
    expected = explainers.explain(network, method, inputs, **params)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_rdes_smooth_grad_is_the_mean_of_squares() -> None:
    network, inputs = network_twin("cnn", "modules")
    found = explainers.explain(network, "smooth_grad", inputs, preset="rde", n_samples=3)
    trace = Trace(network, inputs, namespace="smooth_grad")
    built = explainers.build("smooth_grad_squared", preset="rde", n_samples=3)
    assert isinstance(built, explainers.Attribution)
    expected = built.relevance(trace, explainers.Target.parse("predicted"))
    assert isinstance(expected, explainers.Explained)
    # the same sum of the same squares
    torch.testing.assert_close(found, expected.relevance, rtol=1e-12, atol=0)


def test_random_numbers_have_the_deviation_that_is_asked_for() -> None:
    network, inputs = network_twin("cnn", "modules")
    plain = explainers.explain(network, "random", inputs)
    twice = explainers.explain(network, "random", inputs, stdev=2.0)
    assert torch.equal(twice, 2 * plain)
    around = explainers.explain(network, "random", inputs, preset="innvestigate")
    assert torch.equal(around, inputs + plain)
    own = torch.stack([row.std(correction=0) for row in inputs]).view(-1, 1, 1, 1)
    found = explainers.explain(network, "random", inputs, preset="rde")
    torch.testing.assert_close(found, inputs + 2 * own * plain, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="got relative_stdev=-1"):
        explainers.build("random", relative_stdev=-1.0)


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_a_word_is_the_baseline_of_each_sample(method: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    found = explainers.explain(network, method, inputs, baseline="max")
    for row in range(len(inputs)):
        (expected,) = explainers.explain(
            network, method, inputs[[row]], baseline=float(inputs[row].max())
        )
        # convolutions of one row and of several add up in another order
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-12)


def test_a_run_file_can_say_the_word() -> None:
    made = build(IntegratedGradients, {"baseline": "min"}, "here")
    assert made == IntegratedGradients(baseline="min")
