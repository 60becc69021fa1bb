"""Insertion against putting pixels in one by one, and against flipping backwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers import baselines
from pipeline.metrics import Case
from pipeline.metrics.flipping import PixelFlipping
from pipeline.metrics.insertion import Insertion
from pipeline.metrics.metric import Subject
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

# float64 sums of some thirty products: rounding stays some orders below
EXACT = {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize(
    ("order", "baseline", "space"),
    [("morf", 0.0, "probability"), ("lerf", "white", "logit"), ("morf", "mean", "logit")],
)
def test_the_curve_is_that_of_putting_pixels_in_one_by_one(
    order: Any, baseline: Any, space: Any
) -> None:
    inputs, relevance = batch()
    metric = Insertion(n_steps=7, order=order, baseline=baseline, output_space=space)
    of = trace(inputs)
    columns = measure(metric, of, relevance)
    counts = [k * 25 // 7 for k in range(1, 8)]
    for row in range(N):
        groups = ordered(pixels(), relevance[row], descending=order == "morf")
        blank, label = absent(inputs[row], baseline), label_of(of, row)
        steps = in_steps(groups, counts)
        expected = walk(of.model, blank, inputs[row], steps, label, space)
        np.testing.assert_allclose(columns["curve"][row], expected, **EXACT)
        area = np.trapezoid(expected, np.array([0, *counts]) / 25)
        np.testing.assert_allclose(columns["auc"][row], area, **EXACT)


@pytest.mark.parametrize("baseline", ["black", "uniform", {"blur": 1.0}])
def test_insertion_is_flipping_the_least_relevant_first_read_backwards(baseline: Any) -> None:
    inputs, relevance = batch()
    inserted = measure(Insertion(features_in_step=5, baseline=baseline), trace(inputs), relevance)
    flipping = PixelFlipping(features_in_step=5, order="lerf", baseline=baseline)
    flipped = measure(flipping, trace(inputs), relevance)
    torch.testing.assert_close(inserted["curve"], flipped["curve"].flip(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(inserted["auc"], flipped["auc"], rtol=1e-12, atol=0)


def test_images_start_blurred_and_vectors_as_their_mean() -> None:
    inputs, relevance = batch()
    case = Insertion().prepare(Case(trace(inputs), TARGET))
    blurred = baselines.resolve({"blur": 5.0}, inputs)
    assert torch.equal(case.shared["exchange"].start, blurred.flatten(2))
    model = nn.Linear(50, 3).double()
    vectors, maps = inputs.flatten(1), relevance.flatten(1)
    usual = measure(Insertion(), trace(vectors, model=model), maps)
    mean = measure(Insertion(baseline="mean"), trace(vectors, model=model), maps)
    assert torch.equal(usual["curve"], mean["curve"])
    assert not torch.equal(usual["curve"][:, 0], usual["curve"][:, -1])


@pytest.mark.parametrize("baseline", [None, "uniform"])
def test_a_curve_depends_on_neither_batch_nor_chunks(
    monkeypatch: pytest.MonkeyPatch, baseline: Any
) -> None:
    inputs, relevance = batch()
    metric = Insertion(n_steps=5, baseline=baseline)
    together = measure(metric, trace(inputs), relevance)["curve"]
    alone = measure(metric, trace(inputs, slice(1, 2)), relevance[1:2])["curve"]
    torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=0)
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 2)
    chunked = measure(metric, trace(inputs), relevance)["curve"]
    torch.testing.assert_close(together, chunked, rtol=1e-12, atol=0)


def test_explainers_share_the_baseline_and_its_output() -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    of.asked.clear()
    subjects = {"a": Subject(relevance), "b": Subject(-relevance)}
    found = Insertion(n_steps=4).scores(Case(of, TARGET), subjects)
    assert of.asked == [N, 3 * N, 3 * N]  # the baseline, and three inner steps of each
    assert torch.equal(found["a"]["curve"][:, 0], found["b"]["curve"][:, 0])
    assert not torch.equal(found["a"]["auc"], found["b"]["auc"])


def test_a_map_that_is_not_finite_scores_nan_alone_and_zeros_go_by_position() -> None:
    inputs, relevance = batch()
    good = measure(Insertion(n_steps=4), trace(inputs), relevance)
    spoiled = relevance.clone()
    spoiled[1, 0, 2, 2] = torch.inf
    bad = measure(Insertion(n_steps=4), trace(inputs), spoiled)
    assert bad["auc"].isnan().tolist() == [False, True, False]
    assert bad["curve"][1].isnan().all()
    assert torch.equal(bad["auc"][[0, 2]], good["auc"][[0, 2]])
    falling = -torch.arange(25, dtype=torch.float64).view(1, 1, 5, 5).expand_as(inputs)
    tied = measure(Insertion(n_steps=4), trace(inputs), torch.zeros_like(inputs))
    told = measure(Insertion(n_steps=4), trace(inputs), falling)
    assert torch.equal(tied["curve"], told["curve"])


def test_magnitudes_order_when_asked_for() -> None:
    inputs, relevance = batch()
    of_magnitudes = measure(Insertion(absolute=True), trace(inputs), relevance)["curve"]
    assert torch.equal(of_magnitudes, measure(Insertion(), trace(inputs), relevance.abs())["curve"])


def test_direction_and_steps_are_declared() -> None:
    assert Insertion().direction == "higher"
    assert Insertion(order="lerf").direction == "lower"
    assert Insertion(output_space="logit").space == "logit"
    (curve,) = Insertion(n_steps=5).curves((2, 5, 5))
    np.testing.assert_allclose(curve.x, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": 3, "features_in_step": 2},
        {"baseline": {"blur": -1.0}},
        {"baseline": {}},
        {"baseline": float("nan")},
    ],
)
@pytest.mark.parametrize("metric", [Insertion, PixelFlipping])
def test_settings_that_mean_nothing_are_refused(metric: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        metric(**settings)


def test_a_blur_of_vectors_is_refused() -> None:
    vectors = torch.ones(2, 4, dtype=torch.float64)
    model = nn.Linear(4, 3).double()
    with pytest.raises(ValueError, match="expected images"):
        measure(Insertion(baseline={"blur": 2.0}), trace(vectors, model=model), vectors)


@pytest.mark.parametrize("metric", [Insertion, PixelFlipping])
def test_one_output_has_no_probabilities(metric: Any) -> None:
    vectors = torch.ones(2, 4, dtype=torch.float64)
    of = trace(vectors, model=nn.Linear(4, 1).double())
    with pytest.raises(ValueError, match="output_space: logit"):
        measure(metric(), of, vectors)
    assert measure(metric(output_space="logit"), of, vectors)["auc"].isfinite().all()
