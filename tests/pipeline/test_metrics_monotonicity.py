"""Monotonicity against putting pixels in one by one, and where it must not hold for any map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics import Case
from pipeline.metrics.metric import Subject
from pipeline.metrics.monotonicity import Monotonicity
from tests.pipeline.exchanged import (
    TARGET,
    N,
    absent,
    batch,
    in_steps,
    label_of,
    measure,
    ordered,
    pixels,
    trace,
    walk,
)


def slow_share(curve: list[float], groups: Any, before: Tensor, after: Tensor) -> float:
    """Return the share of steps that change something at which the output does not fall."""
    largest = max(abs(value) for value in curve)
    held = []
    for step, group in enumerate(groups):
        if any(bool((before[:, y, x] != after[:, y, x]).any()) for y, x in group):
            held.append(curve[step + 1] - curve[step] >= -1e-5 * largest)
    return float(np.mean(held)) if held else float("nan")


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"features_in_step": 1}, list(range(1, 26))),
        ({"n_steps": 6, "baseline": "white", "output_space": "logit"}, [4, 8, 12, 16, 20, 25]),
        ({"features_in_step": 10, "baseline": 0.0, "absolute": True}, [10, 20, 25]),
    ],
)
def test_the_score_is_the_share_of_steps_that_do_not_fall(
    settings: dict[str, Any], counts: list[int]
) -> None:
    inputs, relevance = batch()
    inputs[:, :, 1:3] = 0.0
    of = trace(inputs)
    columns = measure(Monotonicity(**settings), of, relevance)
    heat = relevance.abs() if settings.get("absolute") else relevance
    space = settings.get("output_space", "probability")
    for row in range(N):
        steps = in_steps(ordered(pixels(), heat[row], descending=False), counts)
        blank = absent(inputs[row], settings.get("baseline", "mean"))
        curve = walk(of.model, blank, inputs[row], steps, label_of(of, row), space)
        expected = slow_share(curve, steps, blank, inputs[row])
        # float64 sums of some thirty products: rounding stays some orders below
        np.testing.assert_allclose(columns["curve"][row], curve, rtol=1e-12, atol=1e-14)
        assert float(columns["monotonicity"][row]) == pytest.approx(expected, abs=1e-12)
        assert float(columns["strict"][row]) == float(expected == 1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sum_of_positive_contributions_never_falls_and_one_of_negative_ones_always(
    sign: float,
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 3, bias=False)).double()
    model[1].weight.data = sign * model[1].weight.data.abs()
    inputs, relevance = batch()
    metric = Monotonicity(features_in_step=1, baseline=0.0, output_space="logit")
    columns = measure(metric, trace(inputs.abs() + 0.1, model=model), relevance)
    assert columns["monotonicity"].tolist() == [float(sign > 0)] * N
    assert columns["strict"].tolist() == [float(sign > 0)] * N


def test_steps_that_change_nothing_do_not_count() -> None:
    inputs, relevance = batch()
    inputs[0, :, 1:] = inputs[0, :, :1].amin(dim=2, keepdim=True)
    inputs[1] = 0.5
    of = trace(inputs)
    columns = measure(Monotonicity(features_in_step=1, baseline="black"), of, relevance)
    steps = ordered(pixels(), relevance[0], descending=False)
    blank = absent(inputs[0], "black")
    curve = walk(of.model, blank, inputs[0], steps, label_of(of, 0))
    expected = slow_share(curve, steps, blank, inputs[0])
    assert float(columns["monotonicity"][0]) == pytest.approx(expected, abs=1e-12)
    # of 25 steps at most five change the input, and the others would all hold
    assert expected * 5 == pytest.approx(round(expected * 5))
    assert columns["monotonicity"].isnan().tolist() == [False, True, False]
    assert columns["strict"].isnan().tolist() == [False, True, False]


def test_the_default_is_not_the_same_for_every_map_of_pictures_that_are_mostly_black() -> None:
    inputs, relevance = batch()
    inputs[:, :, 2:] = 0.0
    inputs = inputs.clamp_min(0.0)
    scores = {
        float(score)
        for heat in (relevance, -relevance, torch.zeros_like(relevance))
        for score in measure(Monotonicity(), trace(inputs), heat)["monotonicity"]
    }
    assert len(scores) > 3
    assert max(scores) < 1


def test_rounding_is_no_fall() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).double()
    model[1].weight.data.fill_(-1e-9)
    model[1].bias.data.fill_(1.0)
    inputs = torch.rand(1, 1, 5, 5, dtype=torch.float64) + 1
    settings = {"baseline": 0.0, "output_space": "logit"}
    heat = torch.zeros_like(inputs)
    for tolerance, expected in ((1e-5, 1.0), (0.0, 0.0)):
        metric = Monotonicity(tolerance=tolerance, **settings)
        columns = measure(metric, trace(inputs, model=model), heat)
        assert columns["monotonicity"].tolist() == [expected]
        assert columns["strict"].tolist() == [expected]


def test_nan_stays_alone_and_ties_go_by_position() -> None:
    inputs, relevance = batch()
    spoiled = relevance.clone()
    spoiled[0, 1, 0, 0] = torch.nan
    good, bad = (measure(Monotonicity(), trace(inputs), each) for each in (relevance, spoiled))
    for name, values in bad.items():
        assert values[0].isnan().all()
        assert torch.equal(values[1:], good[name][1:])
    rising = torch.arange(25, dtype=torch.float64).view(1, 1, 5, 5).expand_as(inputs)
    tied = measure(Monotonicity(), trace(inputs), torch.zeros_like(inputs))
    told = measure(Monotonicity(), trace(inputs), rising)
    assert all(torch.equal(tied[name], told[name]) for name in tied)


def test_a_score_does_not_depend_on_the_batch_and_explainers_share_what_they_can() -> None:
    inputs, relevance = batch()
    of, metric = trace(inputs), Monotonicity(n_steps=5, baseline="uniform")
    of.asked.clear()
    subjects = {"a": Subject(relevance), "b": Subject(-relevance)}
    together = metric.scores(Case(of, TARGET), subjects)
    assert of.asked == [N, 4 * N, 4 * N]
    alone = measure(metric, trace(inputs, slice(2, 3)), relevance[2:3])
    for name, values in alone.items():
        torch.testing.assert_close(together["a"][name][2:3], values, rtol=1e-12, atol=1e-15)


def test_directions_steps_and_settings() -> None:
    assert Monotonicity().direction == "higher"
    assert Monotonicity(output_space="logit").space == "logit"
    assert len(Monotonicity(n_steps=5).curves((2, 5, 5))[0].x) == 6
    for settings in ({"tolerance": -1.0}, {"n_steps": 0}, {"baseline": float("inf")}):
        with pytest.raises(ValueError, match="got"):
            Monotonicity(**settings)
