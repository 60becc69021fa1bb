"""Torchvision's families: moments are carried rightly, or refused clearly."""

from __future__ import annotations

import pytest
import torch

from explainers import Network, propagate_moments
from tests.explainers.zoo import gradient_by_autograd, torchvision_model

CARRIED = ("resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5")
CARRIED_TOO = (
    *("alexnet", "vgg11", "densenet121", "googlenet", "inception_v3", "mobilenet_v2"),
    *("efficientnet_b0", "mnasnet0_5", "regnet_y_400mf", "regnet_x_400mf"),
)
REFUSED = (("vit_b_16", "Normalise"), ("convnext_tiny", "Normalise"), ("swin_t", "Normalise"))


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in CARRIED[:2]),
        *(pytest.param(name, marks=pytest.mark.long) for name in (*CARRIED[2:], *CARRIED_TOO)),
    ],
)
def test_families_are_carried(name: str) -> None:
    model, images = torchvision_model(name)
    mean = images[:1]
    network = Network(model, images[:2])
    plain = network(mean)
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(1, 2, *mean.shape[1:], generator=generator, dtype=mean.dtype)
    nothing = torch.zeros_like(mean)
    for found, made in (
        propagate_moments(network, mean, variance=nothing),
        propagate_moments(network, mean, factor=0 * factor),
    ):
        # the same operators on other numbers of rows, in float64
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
        assert not made.any()
    # so little that the network is a linear map
    step = 1e-6
    found, rows = propagate_moments(network, mean, factor=step * factor)
    weights = torch.randn(plain.shape, generator=generator, dtype=mean.dtype)
    slope = gradient_by_autograd(model, mean, weights)
    expected = (slope * factor[0]).flatten(1).sum(1)
    assert (rows[0] @ weights[0] / step - expected).norm() < 0.02 * expected.norm()
    # and of the size of the images it stays finite
    found, spread = propagate_moments(network, mean, variance=torch.ones_like(mean))
    assert found.isfinite().all()
    assert (spread > 0).any()
    assert (spread >= 0).all()


@pytest.mark.parametrize(
    ("name", "operator"),
    [pytest.param(*pair, marks=pytest.mark.long) for pair in REFUSED],
)
def test_norms_of_the_sample_are_refused(name: str, operator: str) -> None:
    model, images = torchvision_model(name)
    with pytest.raises(NotImplementedError, match=f"'moments' has no rule.*{operator}"):
        propagate_moments(model, images[:1], variance=torch.ones_like(images[:1]))
