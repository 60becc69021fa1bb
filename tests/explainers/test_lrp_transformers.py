"""LRP of torchvision's transformers: accounted for, and summing to the logit without biases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from explainers import Network, Trace
from explainers.composites import Assignment, Composite
from explainers.operators import Attention, MatrixProduct, Normalise
from explainers.targets import Target
from tests.explainers.families import family
from tests.explainers.transformers import Accounting, without_biases

EPSILON = Composite((Assignment("epsilon", ("type:Convolution", "type:Linear")),))

NAMES = [
    pytest.param("small_vit", marks=pytest.mark.slow),
    pytest.param("small_swin", marks=pytest.mark.slow),
    pytest.param("small_swin_v2", marks=pytest.mark.long),
    pytest.param("vit_b_16", marks=pytest.mark.long),
    pytest.param("swin_t", marks=pytest.mark.long),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_without_biases_relevance_sums_to_the_logit(name: str) -> None:
    model, inputs = family(name)
    for norm in model.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    network = Network(without_biases(model), inputs)
    kinds = {type(op) for op in network.operators}
    assert Normalise in kinds
    assert kinds & {Attention, MatrixProduct}
    trace = Trace(network, inputs)
    checked = Accounting(network, EPSILON.choose(network), len(inputs))
    start = trace.cotangent(Target()) * trace.output
    walked = trace.walk(checked, Target(), key="lrp", start=start)
    assert checked.worst[0] <= 1e-8, checked.worst
    logit = trace.selected(Target())
    assert bool((logit.abs() > 1e-3).all())
    # what is missing is the stabilisers': 1e-6 over values of about one, a hundred times
    torch.testing.assert_close(walked.relevance.sum((1, 2, 3)), logit, rtol=0.01, atol=0)
    # a class token of zeros gets half of what a sum's stabiliser would keep
    assert bool((walked.absorbed["bias"].abs() <= 1e-4 * logit.abs()).all())
