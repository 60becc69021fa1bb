"""Whole networks of torchvision: what is recomputed on pieces is what is computed whole."""

from __future__ import annotations

import pytest
import torch

from explainers import Network, Target, Trace
from explainers.attribution.occlusion import Occlusion
from explainers.perturbing.fills import Fixed
from explainers.perturbing.valuation import Valuation
from explainers.regions.draft import draft
from explainers.regions.evaluate import Filled
from explainers.regions.local import Local
from explainers.regions.parts import planned
from tests.explainers.zoo import torchvision_model

# Relative to what the outputs are, in float64.
TOLERANCE = 1e-10
STOPS = {
    "squeezenet1_1": "features.7.expand1x1_activation",
    "googlenet": "inception3b.cat#0",
    "efficientnet_b0": "features.1.0.block.0.2",
}
"""The last that can be run on pieces: behind it, these are all of the value, or
squeeze-and-excitation takes the mean of all."""
SLOW = ("resnet18", "squeezenet1_1")
LONG = (
    "googlenet",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
)
NAMES = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    *(pytest.param(name, marks=pytest.mark.long) for name in (*LONG, "inception_v3")),
]


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_whole_runs(name: str) -> None:
    model, images = torchvision_model(name)
    images = images[:1]
    network = Network(model, images)
    trace = Trace(network, images)
    # places that strides do not divide, at borders too
    boxes = Occlusion(window=[9, 6], stride=[19, 29]).boxes(network)
    these = Filled(
        Valuation(trace, Target()),
        boxes,
        Fixed(torch.full_like(images, 0.4)),
        torch.arange(len(boxes)),
    )
    expected = these.values(None)
    made = draft(network, boxes)
    assert made is not None
    last = max(n for n, step in enumerate(made.steps) if isinstance(step, Local))
    assert made.operators[last].name == STOPS.get(name, made.operators[last].name)
    for plan in (made.cheapest(), made.plan(last + 1)):
        found = these.values(plan)
        scale = expected.abs().max()
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=TOLERANCE)
    assert bool(planned(network, boxes)) == (name != "efficientnet_b0")
