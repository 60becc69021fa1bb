"""Grad-CAM and its guided form, against Captum, and where the map of the network is taken."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network
from explainers.attribution.grad_cam import chosen
from tests.explainers.test_guided import unshared
from tests.explainers.twins import network_twin, twin

if TYPE_CHECKING:
    from torch import Tensor

# The same sums in float64 in another order; maps are about 1e-3.
TOLERANCE = {"rtol": 0, "atol": 1e-13}
CLASSES = torch.tensor([1, 0, 3])


def by_captum(model: nn.Module, layer: str, inputs: Tensor, mode: str, is_positive: bool) -> Tensor:
    method = captum.attr.LayerGradCam(model, model.get_submodule(layer))
    small = method.attribute(inputs, CLASSES, relu_attributions=is_positive).detach()
    return captum.attr.LayerAttribution.interpolate(small, inputs.shape[2:], mode)[:, 0]


def guided_by_captum(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it sets hooks
        method = captum.attr.GuidedGradCam(model, model.get_submodule(layer))
        return method.attribute(inputs.clone().requires_grad_(), CLASSES).detach()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("is_positive", [False, True])
def test_the_map_is_captums_enlarged(mode: str, is_positive: bool) -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "functions")
    for layer in ("conv1", "conv2"):
        found = explainers.explain(
            network,
            "grad_cam",
            inputs,
            CLASSES,
            layer=layer,
            interpolation=mode,
            relu_attributions=is_positive,
        )
        expected = by_captum(model, layer, inputs, mode, is_positive)
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_the_guided_map_is_captums() -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "functions")
    found = explainers.explain(network, "guided_grad_cam", inputs, CLASSES, layer="conv2")
    torch.testing.assert_close(found, guided_by_captum(model, "conv2", inputs), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["features.11", "features.12"])
def test_a_layer_before_a_folded_norm_has_a_gradient_of_its_own(layer: str) -> None:
    model, inputs = twin("vgg", "modules")
    found = explainers.explain(
        network_twin("vgg", "modules")[0], "grad_cam", inputs, CLASSES, layer=layer
    )
    expected = by_captum(model, layer, inputs, "bilinear", False)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.slow
def test_resnet_is_explained_at_the_end_of_its_last_stage() -> None:
    model, inputs = twin("resnet18", "modules")
    network = network_twin("resnet18", "modules")[0]
    assert network.operator(chosen(None, network)) is network.operator("layer4")
    model = unshared(model)
    for layer in ("layer4", "layer4.1.conv2", "layer3.0.bn1", "layer2"):
        found = explainers.explain(network, "grad_cam", inputs, CLASSES, layer=layer)
        expected = by_captum(model, layer, inputs, "bilinear", False)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
        found = explainers.explain(network, "guided_grad_cam", inputs, CLASSES, layer=layer)
        expected = guided_by_captum(model, layer, inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "operator"),
    [("cnn", "relu2"), pytest.param("vgg", "features.13", marks=pytest.mark.slow)],
)
def test_by_default_it_is_where_the_last_convolutions_positions_end(
    name: str, operator: str
) -> None:
    network, inputs = network_twin(name, "modules")
    assert network.operator(chosen(None, network)) is network.operator(operator)
    by_default = explainers.explain(network, "grad_cam", inputs, CLASSES)
    assert by_default.shape == (len(inputs), *inputs.shape[2:])
    named = explainers.explain(network, "grad_cam", inputs, CLASSES, layer=operator)
    assert torch.equal(by_default, named)


def test_a_linear_head_behind_the_mean_is_the_class_activation_map() -> None:
    """Zhou et al. 2016 (arXiv:1512.04150): the head's weights, over the number of positions."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).double()
    head = nn.Linear(3, 4).double()
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    inputs = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    expected = torch.einsum("c,bchw->bhw", head.weight[1].detach(), body(inputs).detach()) / 36
    found = explainers.explain(model, "grad_cam", inputs, 1, interpolation="nearest")
    enlarged = functional.interpolate(expected[:, None], (8, 8))[:, 0]
    torch.testing.assert_close(found, enlarged, **TOLERANCE)


def test_a_sequences_map_is_repeated_over_its_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    inputs = torch.randn(3, 2, 9)
    network = Network(model, inputs)
    for name in ("grad_cam", "guided_grad_cam"):
        assert explainers.explain(network, name, inputs).shape == inputs.shape
    found = explainers.explain(network, "grad_cam", inputs)
    assert torch.equal(found[:, 0], found[:, 1])
    assert explainers.build("grad_cam").dims((2, 9)) == ("feature_0", "feature_1")
    assert explainers.build("grad_cam").dims((2, 9, 9)) == ("height", "width")


def test_layers_that_do_not_fit_are_refused() -> None:
    network, _ = network_twin("cnn", "modules")
    for name in ("grad_cam", "guided_grad_cam"):
        with pytest.raises(LookupError, match="did you mean 'conv2'"):
            explainers.get(name)(network, layer="conv")
        with pytest.raises(ValueError, match=r"got layer 'fc1' of shape \('batch', 20\)"):
            explainers.get(name)(network, layer="fc1")
        with pytest.raises(ValueError, match="expected 'bilinear' or 'nearest'"):
            explainers.build(name, interpolation="cubic")
    flat = Network(nn.Linear(4, 2), torch.ones(2, 4))
    with pytest.raises(ValueError, match="none with several positions"):
        explainers.get("grad_cam")(flat)
