"""Controls know no network: noise of each sample, edges of each picture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import explainers
from explainers import Network, Samples, Target, Trace
from explainers.base import Cost

IMAGES = torch.rand(3, 2, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NETWORK = Network(nn.Sequential(nn.Flatten(), nn.Linear(84, 2)).double(), IMAGES)


def drawn(rows: list[int], *, seed: int = 0, target: int = 0) -> torch.Tensor:
    samples = Samples(torch.tensor(rows), torch.tensor([-1] * len(rows)))
    inputs = IMAGES[[row % 3 for row in rows]]
    trace = Trace(NETWORK, inputs, samples=samples, seed=seed, namespace="random")
    return explainers.build("random").relevance(trace, Target("index", target))


def test_noise_is_the_samples_own_in_any_batch_and_for_any_target() -> None:
    both = drawn([4, 9])
    assert both.shape == (2, 2, 6, 7)
    assert torch.equal(drawn([9]), both[1:])
    assert torch.equal(drawn([9], target=1), both[1:])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(drawn([4, 9], seed=1), both)


def test_noise_is_standard_normal() -> None:
    numbers = drawn(list(range(60))).flatten()
    # 5,040 numbers: five standard errors of mean and variance
    assert abs(float(numbers.mean())) < 0.07
    assert abs(float(numbers.var()) - 1) < 0.1


def test_controls_cost_no_pass() -> None:
    assert explainers.build("random").cost == explainers.build("sobel").cost == Cost()
    assert explainers.build("random").stochastic
    assert not explainers.build("sobel").stochastic


def test_edges_are_found_pixel_by_pixel() -> None:
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    expected = torch.zeros(3, 6, 7, dtype=torch.float64)
    for row, channel, y, x in torch.cartesian_prod(*(torch.arange(n) for n in IMAGES.shape)):
        image = IMAGES[row, channel]
        window = torch.stack(
            [
                torch.stack(
                    [image[(y + dy).clamp(0, 5), (x + dx).clamp(0, 6)] for dx in (-1, 0, 1)]
                )
                for dy in (-1, 0, 1)
            ]
        )
        steepness = (window * across).sum().square() + (window * across.T).sum().square()
        expected[row, y, x] += steepness.sqrt()
    found = explainers.explain(NETWORK, "sobel", IMAGES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not explainers.explain(NETWORK, "sobel", torch.ones_like(IMAGES)).any()


def test_edges_of_what_is_no_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"edges of images, got inputs of shape \(batch, 4\)"):
        explainers.explain(nn.Linear(4, 2), "sobel", torch.ones(2, 4))


@pytest.mark.slow
def test_a_run_s_entry_is_reproduced_by_its_name() -> None:
    inputs = torch.zeros(3, 4)
    entry = Trace(explainers.Network(nn.Linear(4, 2), inputs), inputs, namespace="entry", seed=3)
    wanted = explainers.build("random").relevance(entry, Target.parse(0))
    drawn = explainers.get("random")(nn.Linear(4, 2), seed=3, namespace="entry").attribute(inputs)
    torch.testing.assert_close(drawn, wanted, rtol=0, atol=0)
    other = explainers.get("random")(nn.Linear(4, 2), seed=3).attribute(inputs)
    assert not torch.equal(drawn, other)
