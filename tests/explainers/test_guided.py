"""Guided backpropagation and deconvnet, against their definitions, and against Captum."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network
from explainers.operators import Activation, Elementwise, Generic, Slot
from explainers.rules.rectified import deconvnet, guided
from tests.explainers.twins import network_twin, twin

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rules.table import RuleTable

CAPTUM = {
    "guided_backprop": captum.attr.GuidedBackprop,
    "deconvnet": captum.attr.Deconvolution,
}
# Both are chains of the same float64 kernels; sums run in another order. Maps are about 0.01.
TOLERANCE = {"rtol": 0, "atol": 1e-12}
CLASSES = torch.tensor([1, 0, 3])


def by_captum(method: str, model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it sets hooks
        attribution = CAPTUM[method](model)
        return attribution.attribute(inputs.clone().requires_grad_(), target=classes).detach()


@pytest.mark.parametrize("method", CAPTUM)
@pytest.mark.parametrize("name", ["cnn", pytest.param("vgg", marks=pytest.mark.slow)])
def test_maps_of_functions_are_those_that_captum_finds_for_modules(name: str, method: str) -> None:
    model, inputs = twin(name, "modules")
    network, _ = network_twin(name, "functions")
    found = explainers.explain(network, method, inputs, CLASSES)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, by_captum(method, model, inputs, CLASSES), **TOLERANCE)


def unshared(model: nn.Module) -> nn.Module:
    """Return torchvision's ResNet with a ReLU of its own for each use, none of them in place."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "downsample"):
            module.relu, module.relu2 = nn.ReLU(), nn.ReLU()
            module.forward = _block.__get__(module)
    model.relu = nn.ReLU()
    return model


def _block(self: Any, x: Tensor) -> Tensor:
    kept = x if self.downsample is None else self.downsample(x)
    return self.relu2(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + kept)


@pytest.mark.slow
@pytest.mark.parametrize("method", CAPTUM)
def test_resnet_needs_no_rewriting(method: str) -> None:
    model, inputs = twin("resnet18", "modules")
    expected = by_captum(method, unshared(model), inputs, CLASSES)
    found = explainers.explain(network_twin("resnet18", "modules")[0], method, inputs, CLASSES)
    # thirty times as many layers, and batch norms are folded into convolutions
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


class Rectified(nn.Module):
    """Rectifiers in all forms but the plain one, and what has no rectifier to replace."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = {"generator": generator, "dtype": torch.float64}
        self.weights = [torch.randn(6, 6, **draw) for _ in range(5)]
        self.norm = nn.LayerNorm(6).double()

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth, last = self.weights
        x = functional.relu6(3 * x @ first)
        x = self.norm((x @ second).clamp(min=0))
        x = functional.hardtanh(x @ third, 0.0, 1.0) * (x @ fourth).relu().softmax(1)
        return x @ last

    def slow(self, x: Tensor, backwards: Any) -> Tensor:
        """The same with a function that is given for what lies between two bounds."""
        first, second, third, fourth, last = self.weights
        x = backwards(3 * x @ first, 6.0)
        x = self.norm(backwards(x @ second, torch.inf))
        x = backwards(x @ third, 1.0) * backwards(x @ fourth, torch.inf).softmax(1)
        return x @ last


class Guided(torch.autograd.Function):
    """``R * [0 < x < high] * [R > 0]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.high = high
        return x.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return relevance * (x > 0) * (x < ctx.high) * (relevance > 0), None


class Deconvolved(Guided):
    """``R * [R > 0]``."""

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance * (relevance > 0), None


def test_all_forms_of_a_rectifier_are_one() -> None:
    model = Rectified()
    inputs = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = Network(model, inputs)
    for method, definition in (("guided_backprop", Guided), ("deconvnet", Deconvolved)):
        leaf = inputs.clone().requires_grad_()
        output = model.slow(leaf, definition.apply)
        (expected,) = torch.autograd.grad(output[:, 2].sum(), leaf)
        wanted = {"none": expected, "abs": expected.abs(), "square": expected.square()}
        for postprocess, relevance in wanted.items():
            found = explainers.explain(network, method, inputs, 2, postprocess=postprocess)
            torch.testing.assert_close(found, relevance, rtol=1e-10, atol=1e-12)


def test_what_does_not_rectify_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)).double()
    network = Network(model, torch.zeros(2, 4, dtype=torch.float64))
    for method, table in (("guided_backprop", "guided"), ("deconvnet", "deconvnet")):
        words = (
            f"'{table}' has no rule.*Activation\\(gelu\\).*node '1' in '1'.*use gradient, saliency"
        )
        with pytest.raises(NotImplementedError, match=words):
            explainers.get(method)(network)


@pytest.mark.parametrize("table", [guided, deconvnet])
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("leaky_relu", (0.1,)), ("hardtanh", (-1.0, 1.0)), ("hardtanh", ()), ("clamp", (0.5, 1.0))],
)
def test_bounds_other_than_zero_are_no_rectifiers(
    table: RuleTable, kind: str, parameters: tuple[float, ...]
) -> None:
    op = Activation(name="op", module_path="", inputs=("x",), kind=kind, parameters=parameters)
    with pytest.raises(NotImplementedError, match="defined for rectifiers alone"):
        table.find(op)


@pytest.mark.parametrize("table", [guided, deconvnet])
def test_other_functions_of_values_have_no_rule(table: RuleTable) -> None:
    where = {"name": "op", "module_path": "", "inputs": ("x",), "arguments": (Slot(0),)}
    for op in (Elementwise(**where, function=torch.exp), Generic(**where, function=torch.fft.fft)):
        with pytest.raises(NotImplementedError, match=r"has no rule.*use gradient, saliency"):
            table.find(op)


def test_what_is_no_program_is_refused() -> None:
    opaque = Network(lambda x: x if float(x.sum()) > -1e9 else -x, torch.ones(2, 4))
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        explainers.get("guided_backprop")(opaque)
