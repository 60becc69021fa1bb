"""Families of torchvision: outputs, gradients and layers of the program are the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from explainers.network import Network
from explainers.trace import Trace
from tests.explainers.zoo import (
    HEAVY,
    LIGHT,
    Weighted,
    disagreeing,
    gradient_by_autograd,
    hooked,
    relative_error,
    torchvision_model,
    weights_of,
)

if TYPE_CHECKING:
    from torch import nn

NAMES = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in LIGHT),
    *(pytest.param(name, marks=pytest.mark.long) for name in HEAVY),
]


# parametrised over the module, so that the tests of one network follow each other
@pytest.fixture(scope="module", params=NAMES)
def traced(request: pytest.FixtureRequest) -> tuple[nn.Module, Trace]:
    model, inputs = torchvision_model(request.param)
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
    assert disagreeing(trace.network, hooked(model, trace.inputs), trace.inputs) == []


@pytest.mark.long
def test_outputs_in_single_precision(traced: tuple[nn.Module, Trace]) -> None:
    model, trace = traced
    single = trace.network.to(dtype=torch.float32)
    with torch.no_grad():
        expected = model.float()(trace.inputs.float())
        # 4e-6 is what folding and channels last cost on all of these
        assert relative_error(single(trace.inputs.float()), expected) <= 4e-6
    model.double()
