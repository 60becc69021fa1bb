"""Region perturbation and selectivity against removing patches one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.metrics import Case
from pipeline.metrics.metric import Subject
from pipeline.metrics.regions import RegionPerturbation, Selectivity
from tests.pipeline.exchanged import (
    SIDE,
    TARGET,
    N,
    absent,
    batch,
    explained,
    in_steps,
    label_of,
    measure,
    ordered,
    trace,
    walk,
)

# float64 sums of some thirty products: rounding stays some orders below
EXACT = {"rtol": 1e-12, "atol": 1e-14}
Groups = list[list[tuple[int, int]]]


def patches(height: int, width: int, before: tuple[int, int] = (0, 0)) -> Groups:
    """Return the pixels of each patch, row by row; some of the first are cut off."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in range(SIDE):
        for x in range(SIDE):
            place = ((y + before[0]) // height, (x + before[1]) // width)
            found.setdefault(place, []).append((y, x))
    return [found[place] for place in sorted(found)]


@pytest.mark.parametrize(
    ("order", "size", "baseline", "space", "n_regions"),
    [
        ("morf", 2, "black", "probability", 100),
        ("lerf", (3, 2), "mean", "logit", 4),
        ("morf", 5, 0.5, "logit", 1),
    ],
)
def test_aopc_is_the_mean_fall_while_patches_go(
    order: Any, size: Any, baseline: Any, space: Any, n_regions: int
) -> None:
    inputs, relevance = batch()
    metric = RegionPerturbation(
        patch_size=size, order=order, baseline=baseline, output_space=space, n_regions=n_regions
    )
    of = trace(inputs)
    columns = measure(metric, of, relevance)
    groups = patches(*(size if isinstance(size, tuple) else (size, size)))
    for row in range(N):
        going = ordered(groups, relevance[row], descending=order == "morf")[:n_regions]
        blank, label = absent(inputs[row], baseline), label_of(of, row)
        values = walk(of.model, inputs[row], blank, going, label, space)
        expected = values[0] - np.array(values)
        np.testing.assert_allclose(columns["curve"][row], expected, **EXACT)
        np.testing.assert_allclose(columns["aopc"][row], expected.mean(), **EXACT)
    (curve,) = metric.curves(tuple(inputs.shape[1:]))
    assert curve.x == tuple(range(columns["curve"].shape[1]))


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, range(1, 10)),
        ({"n_steps": 4}, [2, 4, 6, 9]),
        ({"regions_in_step": 4, "baseline": "white"}, [4, 8, 9]),
    ],
)
def test_selectivity_is_the_area_under_the_output_while_patches_go(
    settings: dict[str, Any], counts: Any
) -> None:
    inputs, relevance = batch()
    of, metric = trace(inputs), Selectivity(patch_size=2, **settings)
    columns = measure(metric, of, relevance)
    share = np.array([0, *counts]) / 9
    for row in range(N):
        going = in_steps(ordered(patches(2, 2), relevance[row], descending=True), list(counts))
        blank = absent(inputs[row], settings.get("baseline", "black"))
        expected = walk(of.model, inputs[row], blank, going, label_of(of, row))
        np.testing.assert_allclose(columns["curve"][row], expected, **EXACT)
        np.testing.assert_allclose(columns["auc"][row], np.trapezoid(expected, share), **EXACT)
    (curve,) = metric.curves(tuple(inputs.shape[1:]))
    np.testing.assert_allclose(curve.x, share)


def test_a_linear_model_falls_by_the_relevance_of_its_patches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3, bias=False)).double()
    inputs = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    of = trace(inputs, model=model)
    relevance = inputs * model[1].weight.detach()[of.output.argmax(1)].view_as(inputs)
    metric = RegionPerturbation(patch_size=2, baseline=0.0, output_space="logit")
    curve = measure(metric, of, relevance)["curve"]
    of_patches = nn.functional.avg_pool2d(relevance.sum(1), 2).flatten(1) * 4
    expected = of_patches.sort(1, descending=True).values.cumsum(1)
    torch.testing.assert_close(curve[:, 1:], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", [RegionPerturbation(patch_size=2), Selectivity(patch_size=2)])
def test_ties_go_row_by_row_and_nan_stays_alone(metric: Any) -> None:
    inputs, relevance = batch()
    falling = -torch.tensor([[0, 0, 1, 1, 2]] * 2 + [[3, 3, 4, 4, 5]] * 2 + [[6, 6, 7, 7, 8]])
    falling = -(5.0**-falling).double().view(1, 1, 5, 5).expand(N, -1, -1, -1)
    tied = measure(metric, trace(inputs), torch.zeros_like(inputs))
    assert torch.equal(tied["curve"], measure(metric, trace(inputs), falling)["curve"])
    spoiled = relevance.clone()
    spoiled[2, 1, 4, 4] = torch.nan
    good, bad = (measure(metric, trace(inputs), each) for each in (relevance, spoiled))
    for name, values in bad.items():
        assert values[2].isnan().all()
        assert torch.equal(values[:2], good[name][:2])


@pytest.mark.parametrize("baseline", ["black", "uniform", {"blur": 1.0}])
def test_a_curve_depends_on_neither_batch_nor_chunks(
    monkeypatch: pytest.MonkeyPatch, baseline: Any
) -> None:
    inputs, relevance = batch()
    metric = RegionPerturbation(patch_size=2, baseline=baseline)
    together = measure(metric, trace(inputs), relevance)["curve"]
    alone = measure(metric, trace(inputs, slice(1, 2)), relevance[1:2])["curve"]
    torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=1e-15)
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 2)
    chunked = measure(metric, trace(inputs), relevance)["curve"]
    torch.testing.assert_close(together, chunked, rtol=1e-12, atol=1e-15)


def test_explainers_share_the_outputs_before_and_after_all_patches() -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    of.asked.clear()
    subjects = {"a": Subject(relevance), "b": Subject(relevance.sum(1))}
    metric = Selectivity(patch_size=2, n_steps=3)
    found = metric.scores(Case(of, TARGET), subjects)
    assert of.asked == [N, 2 * N, 2 * N]
    torch.testing.assert_close(found["a"]["auc"], found["b"]["auc"], rtol=1e-12, atol=0)


def test_vectors_are_cut_into_stretches() -> None:
    torch.manual_seed(0)
    model, vectors = nn.Linear(7, 3).double(), torch.randn(2, 7, dtype=torch.float64)
    relevance = torch.tensor([[1.0, 0, 0, 9, 0, 0, 2], [0, 0, 0, 0, 0, 0, 1]]).double()
    metric = Selectivity(patch_size=3, baseline=0.0, output_space="logit")
    of = trace(vectors, model=model)
    curve = measure(metric, of, relevance)["curve"]
    for row, order in enumerate([[1, 2, 0], [2, 0, 1]]):
        current, expected = vectors[row].clone(), []
        for stretch in [None, *order]:
            if stretch is not None:
                current[3 * stretch : 3 * stretch + 3] = 0
            expected.append(explained(model, current, label_of(of, row), "logit"))
        np.testing.assert_allclose(curve[row], expected, rtol=1e-12)


def quantus_walk(of: Any, row: int, heat: Any, baseline: str) -> list[float]:
    """Quantus 0.6: patches of 2 in an image padded at the far side, one black for all channels."""
    fill = float({"black": np.min, "white": np.max}[baseline](inputs := of.inputs[row].numpy()))
    going = ordered(patches(2, 2), heat, descending=True)
    blank = torch.full_like(torch.from_numpy(inputs), fill)
    return walk(of.model, of.inputs[row], blank, going, label_of(of, row))


@pytest.mark.parametrize("baseline", ["black", "white"])
def test_quantus_mode_counts_as_quantus_does(baseline: Any) -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    settings = {"patch_size": 2, "baseline": baseline, "compat": "quantus"}
    falls = measure(RegionPerturbation(**settings), of, relevance)
    selected = measure(Selectivity(**settings), of, relevance)
    for row in range(N):
        values = np.array(quantus_walk(of, row, relevance[row], baseline))
        fall = values[0] - values
        np.testing.assert_allclose(falls["curve"][row], fall[1:], **EXACT)
        np.testing.assert_allclose(falls["auc"][row], np.trapezoid(fall[1:]), **EXACT)
        np.testing.assert_allclose(falls["aopc"][row], fall.mean(), **EXACT)
        np.testing.assert_allclose(selected["curve"][row], values[1:], **EXACT)
        np.testing.assert_allclose(selected["auc"][row], np.trapezoid(values[1:]), **EXACT)
    for metric in (RegionPerturbation(**settings), Selectivity(**settings)):
        assert len(metric.curves(tuple(inputs.shape[1:]))[0].x) == 9


def test_directions_follow_the_order() -> None:
    assert RegionPerturbation().direction == "higher"
    assert RegionPerturbation(order="lerf").direction == "lower"
    assert Selectivity().direction == "lower"
    assert Selectivity(output_space="logit").space == "logit"


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        (RegionPerturbation, {"patch_size": 0}),
        (RegionPerturbation, {"n_regions": 0}),
        (RegionPerturbation, {"baseline": "mean", "compat": "quantus"}),
        (Selectivity, {"n_steps": 3, "regions_in_step": 2}),
        (Selectivity, {"patch_size": ()}),
        (Selectivity, {"baseline": {"blur": 1.0}, "compat": "quantus"}),
    ],
)
def test_settings_that_mean_nothing_are_refused(metric: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        metric(**settings)


def test_quantus_mode_takes_square_patches_of_images() -> None:
    inputs, relevance = batch()
    with pytest.raises(ValueError, match="square patches"):
        measure(Selectivity(patch_size=(2, 3), compat="quantus"), trace(inputs), relevance)
