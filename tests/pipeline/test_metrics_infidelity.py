"""Infidelity against its definition, written out slowly, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics import Case, sampled
from pipeline.metrics.infidelity import Infidelity
from tests.pipeline.exchanged import (
    CHANNELS,
    INDEX,
    SIDE,
    TARGET,
    absent,
    batch,
    label_of,
    measure,
    network,
    trace,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-12}  # float64; sums of 50 terms


def errors(model: nn.Module, image: Tensor, changed: Tensor, heat: Tensor, label: int) -> Tensor:
    """Return the squared error of each change, as the paper writes it."""
    with torch.no_grad():
        output = model(torch.cat([image[None], changed]))[:, label]
    drops = output[0] - output[1:]
    products = torch.stack([((image - each) * heat).sum() for each in changed])
    return (products - drops).square()


@pytest.mark.parametrize("noise", ["square", "gaussian", "noisy_baseline"])
def test_infidelity_is_the_squared_error_over_changes(noise: Any) -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    metric = Infidelity(noise=noise, n_draws=7, square=2, baseline="mean")
    case = metric.prepare(Case(of, TARGET))
    every = case.shared["changes"].changed(torch.arange(21)).view(3, 7, *inputs.shape[1:])
    columns = metric.score(case, relevance)
    for row, image in enumerate(inputs):
        error = errors(of.model, image, every[row], relevance[row], label_of(of, row))
        np.testing.assert_allclose(columns["infidelity"][row], error.mean(), **CLOSE)
        spread = error.std() / np.sqrt(7)
        np.testing.assert_allclose(columns["infidelity_error"][row], spread, **CLOSE)
        if noise == "square":
            is_gone = (every[row] != image).any(dim=1)
            assert is_gone.sum(dim=(1, 2)).tolist() == [4] * 7
            blank = absent(image, "mean")
            torch.testing.assert_close(every[row], torch.where(is_gone[:, None], blank, image))


def test_gaussian_noise_is_a_share_of_the_range_around_the_sample_or_the_baseline() -> None:
    inputs, _ = batch()
    spread = inputs.flatten(1).amax(dim=1) - inputs.flatten(1).amin(dim=1)
    for noise, centre in (("gaussian", inputs), ("noisy_baseline", torch.zeros_like(inputs))):
        metric = Infidelity(noise=noise, n_draws=400, std=0.1, baseline=0.0)
        changes = metric.prepare(Case(trace(inputs), TARGET)).shared["changes"]
        amounts = changes.changed(torch.arange(1200)).view(3, 400, *inputs.shape[1:])
        amounts = (amounts - centre[:, None]).flatten(1)
        # 20,000 numbers: their deviation is known to 0.5 %
        np.testing.assert_allclose(amounts.std(dim=1) / spread, 0.1, rtol=0.02)
        np.testing.assert_allclose(amounts.mean(dim=1) / spread, 0.0, atol=0.004)


def test_normal_numbers_are_normal_and_follow_from_their_seed() -> None:
    seeds = torch.tensor([3, 4])
    numbers = sampled.normal(seeds, 20001, torch.float64)
    # moments of 20,000 numbers, to four standard errors
    for moment, expected, error in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        found = (numbers**moment).mean(dim=1)
        np.testing.assert_allclose(found, expected, atol=4 * error / 20000**0.5)
    assert torch.equal(sampled.normal(seeds[1:], 20001, torch.float64), numbers[1:])
    assert numbers[0, 0] != numbers[1, 0]


def linear() -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, 3)).double()
    inputs, _ = batch()
    of = trace(inputs, model=model)
    return of, model[1].weight.detach()[of.output.argmax(dim=1)].view_as(inputs)


@pytest.mark.parametrize("noise", ["square", "gaussian", "noisy_baseline"])
def test_the_gradient_of_a_linear_model_has_no_error(noise: Any) -> None:
    of, gradient = linear()
    columns = measure(Infidelity(noise=noise, n_draws=5), of, gradient)
    for name in ("infidelity", "infidelity_error", "scaled_infidelity", "relative_infidelity"):
        torch.testing.assert_close(columns[name], torch.zeros(3).double(), rtol=0, atol=1e-20)
    scaled = measure(Infidelity(noise=noise, n_draws=5), of, -3 * gradient)
    assert (scaled["infidelity"] > 1e-3).all()
    assert (scaled["relative_infidelity"] < 1e-20).all()


def test_contributions_of_a_linear_model_have_no_error_as_global_maps() -> None:
    of, gradient = linear()
    metric = Infidelity(n_draws=5, baseline=0.0, attribution="global")
    for maps in (gradient * of.inputs, (gradient * of.inputs).sum(dim=1, keepdim=True)):
        found = measure(metric, of, maps)["infidelity"]
        torch.testing.assert_close(found, torch.zeros(3).double(), rtol=0, atol=1e-20)


def test_a_map_of_zeros_scores_what_the_output_loses() -> None:
    inputs, relevance = batch()
    inputs[1] = 0.3  # squares of it are the baseline already
    metric = Infidelity(n_draws=5)
    case = metric.prepare(Case(trace(inputs), TARGET))
    columns = metric.score(case, torch.zeros_like(relevance))
    torch.testing.assert_close(columns["infidelity"], case.shared["drops"].square().mean(dim=1))
    assert columns["relative_infidelity"][[0, 2]].tolist() == [1.0, 1.0]
    assert columns["relative_infidelity"][1].isnan()


def test_a_sum_over_channels_is_shared_among_them() -> None:
    inputs, relevance = batch()
    summed = relevance.sum(dim=1, keepdim=True)
    found = measure(Infidelity(n_draws=4), trace(inputs), summed)
    even = measure(Infidelity(n_draws=4), trace(inputs), summed.expand_as(inputs) / CHANNELS)
    torch.testing.assert_close(found["infidelity"], even["infidelity"])


def test_quantus_mode_removes_patch_after_patch_for_good() -> None:
    inputs, relevance = batch(side=6)
    of = trace(inputs)
    columns = measure(Infidelity(compat="quantus", square=3), of, relevance[:, :1])
    assert "infidelity_error" not in columns
    for row, image in enumerate(inputs):
        states = [image.clone() for _ in range(4)]
        for patch in range(4):
            y, x = 3 * (patch // 2), 3 * (patch % 2)
            for state in states[patch:]:
                state[:, y : y + 3, x : x + 3] = image.min()
        heat = relevance[row, :1].expand_as(image)
        error = errors(network(side=6), image, torch.stack(states), heat, label_of(of, row))
        np.testing.assert_allclose(columns["infidelity"][row], error.mean(), **CLOSE)


def test_squares_lie_anywhere_within_the_image() -> None:
    inputs, _ = batch()
    changes = Infidelity(n_draws=300, square=4).prepare(Case(trace(inputs), TARGET))
    boxes = changes.shared["changes"]
    for first in (boxes.top, boxes.left):
        assert sorted(first.unique().tolist()) == [0, 1]
    assert len(INDEX) == 3
    assert not torch.equal(boxes.top[0], boxes.top[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"n_draws": 1},
        {"square": 0},
        {"attribution": "global", "noise": "gaussian"},
        {"compat": "quantus", "noise": "square"},
        {"compat": "quantus", "baseline": "uniform"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got|n_draws|square"):
        Infidelity(**settings)


def test_squares_that_do_not_fit_and_inputs_that_have_none_are_refused() -> None:
    inputs, _ = batch()
    case = Case(trace(inputs), TARGET)
    with pytest.raises(ValueError, match="expected smaller ones"):
        Infidelity(square=6).prepare(case)
    with pytest.raises(ValueError, match="a side that divides both"):
        Infidelity(compat="quantus", square=2).prepare(case)
    rows = Case(trace(torch.randn(3, 4).double(), model=nn.Linear(4, 2).double()), TARGET)
    with pytest.raises(ValueError, match="expected images"):
        Infidelity(noise="square").prepare(rows)
    assert set(Infidelity(n_draws=3).prepare(rows).shared) == {"changes", "drops", "least"}
