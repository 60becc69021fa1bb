"""Gradient, saliency and input times gradient, against Captum and against their definitions."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from torch import nn

import explainers
from explainers import Network, Target, Trace
from tests.explainers.twins import network_twin, twin

# Both are chains of the same float64 kernels; sums run in another order.
TOLERANCE = {"rtol": 0, "atol": 1e-8}


@pytest.mark.parametrize("name", ["cnn", "vgg", pytest.param("resnet18", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("method", "captum"), [("saliency", Saliency), ("input_x_gradient", InputXGradient)]
)
def test_maps_equal_captums(name: str, method: str, captum: type) -> None:
    model, inputs = twin(name, "functions")
    classes = torch.tensor([1, 0, 3])
    expected = captum(model).attribute(inputs.clone().requires_grad_(), target=classes)
    network, _ = network_twin(name, "functions")
    found = explainers.explain(network, method, inputs, target=classes)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("form", ["program", "opaque"])
def test_the_gradient_is_that_of_the_weighted_output(form: str) -> None:
    linear = nn.Linear(4, 3).double()
    inputs = torch.randn(2, 4, dtype=torch.float64)
    weights = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]], dtype=torch.float64)

    def opaque(x: torch.Tensor) -> torch.Tensor:
        return linear(x) if float(x.detach().sum()) > -1e9 else x

    found = explainers.explain(linear if form == "program" else opaque, "gradient", inputs, weights)
    torch.testing.assert_close(found, weights @ linear.weight.detach(), **TOLERANCE)


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients"])
def test_postprocessing_takes_the_size_or_the_square(method: str) -> None:
    network, inputs = network_twin("cnn", "modules")
    plain = explainers.explain(network, method, inputs)
    assert torch.equal(explainers.explain(network, method, inputs, postprocess="abs"), plain.abs())
    assert torch.equal(
        explainers.explain(network, method, inputs, postprocess="square"), plain.square()
    )
    with pytest.raises(ValueError, match="expected 'none', 'abs' or 'square'"):
        explainers.get(method)(network, postprocess="cube")


def test_saliency_is_the_size_of_the_gradient_and_sensitivity_its_square() -> None:
    network, inputs = network_twin("cnn", "modules")
    gradient = explainers.explain(network, "gradient", inputs)
    for postprocess, expected in (
        ({}, gradient.abs()),
        ({"postprocess": "none"}, gradient),
        ({"postprocess": "square"}, gradient.square()),
    ):
        found = explainers.explain(network, "saliency", inputs, **postprocess)
        assert torch.equal(found, expected)


def test_methods_of_one_trace_share_forward_and_backward() -> None:
    network, inputs = network_twin("cnn", "modules")
    trace = Trace(network, inputs)
    gradient = trace.gradient(Target())
    saliency = explainers.build("saliency").relevance(trace, Target.parse("predicted"))
    assert torch.equal(saliency, gradient.abs())
    assert trace.gradient(Target.parse(None)) is gradient


def test_a_map_is_not_changed_by_using_another_that_shares_its_gradient() -> None:
    model, inputs = twin("cnn", "modules")
    trace = Trace(Network(model, inputs), inputs)
    gradient = explainers.build("gradient").relevance(trace, Target())
    before = gradient.clone()
    for name in ("saliency", "input_x_gradient", "integrated_gradients", "lrp"):
        explainers.build(name).relevance(trace, Target())
    assert torch.equal(gradient, before)
