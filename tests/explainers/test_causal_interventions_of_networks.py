"""Interventions on known networks against edited weights, in every layer."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import pytest
import torch
import torchvision

from explainers.causal.interventions import Interventions
from explainers.causal.structure import structure_of
from explainers.network import Network
from explainers.trace import Trace
from tests.explainers import families
from tests.explainers.edited_weights import edited, effects_of
from tests.explainers.zoo import randomise

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

EXACT = 1e-9
"""Of the largest logit or one, in float64; most are within 1e-14."""


def check(model: nn.Module, side: int) -> None:
    """Compare a random neuron of every layer; every second time a soft intervention."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, side, side, generator=generator).double()
    network = Network(model, inputs)
    trace, largest = Trace(network, inputs), 1.0
    n_changed = 0
    for layer, u in zip(structure_of(network).layers, cycle((0.0, 0.013)), strict=False):
        if layer.is_root:
            continue
        neuron = int(torch.randint(layer.n_neurons, (1,), generator=generator))
        row = int(torch.randint(2, (1,), generator=generator))
        effects = effects_of(layer, 2)
        rows, neurons = torch.tensor([row]), torch.tensor([neuron])
        found = Interventions(network, layer).logits(trace, rows, neurons, effects, u)
        one = slice(row, row + 1)
        wanted = edited(model, layer, inputs[one], effects[one], u, [neuron])[0]
        largest = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, atol=EXACT * largest, rtol=0, msg=layer.name)
        n_changed += int((wanted - trace.output[one]).abs().max() > 1e-12 * largest)
    assert n_changed > len(structure_of(network).layers) // 2


def torchvision_check(name: str, side: int) -> None:
    """Check a network of torchvision with random weights and norms."""
    options = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options)
    randomise(model)
    check(model, side)


@pytest.mark.slow
def test_a_residual_network_is_as_edited_weights_have_it() -> None:
    torchvision_check("resnet18", 32)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vgg16", 32),
        ("resnet50", 32),
        ("convnext_tiny", 32),
        ("densenet121", 32),
        ("resnext50_32x4d", 32),
        ("mobilenet_v3_small", 32),
        ("shufflenet_v2_x0_5", 32),
        ("squeezenet1_1", 32),
        ("efficientnet_b0", 32),
        ("regnet_y_400mf", 32),
        ("googlenet", 64),
        ("inception_v3", 96),
    ],
)
def test_larger_networks_are_as_edited_weights_have_them(name: str, side: int) -> None:
    torchvision_check(name, side)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(families.small_vit, marks=pytest.mark.slow),
        pytest.param(families.small_swin, marks=pytest.mark.long),
    ],
)
def test_transformers_are_as_edited_weights_have_them(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    model = make()
    randomise(model)
    check(model, 64)
