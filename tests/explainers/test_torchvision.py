"""Families of torchvision and others: the program is the model, and which methods serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import explainers
from explainers.composites import Assignment, Composite, find
from explainers.network import Network
from explainers.targets import Target
from explainers.trace import Trace
from tests.explainers.families import LARGE, SMALL, family
from tests.explainers.transformers import Accounting
from tests.explainers.zoo import (
    Weighted,
    disagreeing,
    gradient_by_autograd,
    hooked,
    relative_error,
    weights_of,
)

if TYPE_CHECKING:
    from torch import nn

SLOW = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "small_vit", "small_swin")
"""The others are read in `make test-all` alone."""

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.long)
    for name in (*SMALL, *LARGE)
]


# parametrised over the module, so that the tests of one network follow each other
@pytest.fixture(scope="module", params=NAMES)
def traced(request: pytest.FixtureRequest) -> tuple[nn.Module, Trace]:
    model, inputs = family(request.param)
    network = Network(model, inputs)
    assert network.is_program, network.reason
    return model, Trace(network, inputs)


def test_outputs_are_the_models(traced: tuple[nn.Module, Trace]) -> None:
    model, trace = traced
    with torch.no_grad():
        assert relative_error(trace.output, model(trace.inputs)) <= 1e-12
        assert relative_error(trace.network(trace.inputs), trace.output) == 0.0


def test_the_walk_is_autograds_gradient(traced: tuple[nn.Module, Trace]) -> None:
    model, trace = traced
    weights = weights_of(trace)
    expected = gradient_by_autograd(model, trace.inputs, weights)
    assert relative_error(trace.gradient(Weighted(weights)), expected) <= 1e-10


def test_layers_hold_what_hooks_see(traced: tuple[nn.Module, Trace]) -> None:
    model, trace = traced
    seen = hooked(model, trace.inputs)
    # Swin's second version computes its table of positions: a constant, of which no layer is left
    of_input = {path: value for path, value in seen.items() if ".cpb_mlp" not in path}
    assert disagreeing(trace.network, of_input, trace.inputs) == []


@pytest.mark.long
def test_outputs_in_single_precision(traced: tuple[nn.Module, Trace]) -> None:
    model, trace = traced
    single = trace.network.to(dtype=torch.float32)
    with torch.no_grad():
        expected = model.float()(trace.inputs.float())
        # 4e-6 is what folding and channels last cost on all of these
        assert relative_error(single(trace.inputs.float()), expected) <= 4e-6
    model.double()


EPSILON = Composite((Assignment("epsilon", ("type:Convolution", "type:Linear")),))


@pytest.mark.parametrize("composite", [EPSILON, find("epsilon_plus_flat")], ids=["epsilon", "flat"])
def test_every_operators_relevance_is_accounted_for(
    traced: tuple[nn.Module, Trace], composite: Composite
) -> None:
    _, trace = traced
    checked = Accounting(trace.network, composite.choose(trace.network), len(trace.inputs))
    start = trace.cotangent(Target()) * trace.output
    walked = trace.walk(checked, Target(), key=("checked", composite), start=start)
    assert checked.worst[0] <= 1e-8, checked.worst
    total = walked.relevance.flatten(1).sum(1) + sum(walked.absorbed.values())
    largest = float(walked.relevance.abs().max())
    torch.testing.assert_close(total, start.sum(1), rtol=1e-8, atol=1e-8 * (1 + largest))


IMAGE_TRANSFORMERS = {"small_vit", "small_swin", "small_swin_v2", "small_maxvit"} | {
    *("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t")
}
HAVE_NORMS = IMAGE_TRANSFORMERS | {"encoder", "conv3d", "convnext_tiny"}
GATED = {"mobilenet_v3_small", "regnet_y_400mf", "efficientnet_b0", "efficientnet_v2_s"}
CURVED = GATED | {"conv1d", "conv3d", "convnext_tiny"}
"""With activations or gates that are no rectifiers."""
REFUSED = {
    "guided_backprop": IMAGE_TRANSFORMERS | CURVED,
    "deconvnet": IMAGE_TRANSFORMERS | CURVED,
    "guided_grad_cam": IMAGE_TRANSFORMERS | CURVED | {"encoder"},
    "grad_cam": {"encoder"},
    "deep_lift": {"small_swin_v2", "swin_v2_t"},
    "deep_lift_shap": {"small_swin_v2", "swin_v2_t"},
    "epsilon_lrp": HAVE_NORMS | GATED,
}
"""Method to the families that it refuses before any input is seen; of gradients, LRP and controls
none. Guided backpropagation and deconvnet are defined for rectifiers alone; DeepExplain's
epsilon-LRP for activations and linear maps; DeepLIFT has no rule for the norm of a vector, by
which Swin's second version divides queries and keys; Grad-CAM needs a convolution."""
SERVE_ALL = (
    *("gradient", "saliency", "input_x_gradient", "integrated_gradients", "smooth_grad"),
    *("smooth_grad_squared", "var_grad", "lrp", "random"),
)


@pytest.mark.parametrize("method", [*REFUSED, *SERVE_ALL])
def test_which_methods_serve_which_family(
    traced: tuple[nn.Module, Trace], method: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["traced"]
    explainer = explainers.build(method)
    if name not in REFUSED.get(method, ()):
        explainer.check(traced[1].network)
        return
    with pytest.raises((NotImplementedError, ValueError)) as refused:
        explainer.check(traced[1].network)
    assert "use " in str(refused.value) or "name a layer" in str(refused.value)
