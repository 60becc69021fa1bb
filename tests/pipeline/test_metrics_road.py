"""ROAD: filling in against the equations themselves, and curves against a slow walk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Samples
from pipeline.metrics import Case, imputation
from pipeline.metrics.metric import Subject
from pipeline.metrics.road import Road
from tests.pipeline.exchanged import INDEX, TARGET, Rows, batch, measure, network

SIDE, PIXELS = 6, 36
LABELS = torch.tensor([1, 2, -1])
# float64; a dense solution of 30 equations whose condition is some hundreds
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


class LabelledRows(Rows):
    parent = None


def pictures(rows: Any = slice(None)) -> tuple[LabelledRows, Tensor]:
    inputs, relevance = batch(side=SIDE)
    samples = Samples(INDEX[rows], LABELS[rows])
    return LabelledRows(network(side=SIDE), inputs[rows], samples), relevance[rows]


def filled(image: Tensor, gone: set[tuple[int, int]]) -> Tensor:
    """Write down an equation for every missing pixel and solve them, channel by channel."""
    height, width = image.shape[1:]
    number = {place: k for k, place in enumerate(sorted(gone))}
    matrix = np.zeros((len(gone), len(gone)))
    right = np.zeros((len(gone), len(image)))
    for (y, x), k in number.items():
        for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
            place, weight = (y + dy, x + dx), 1 / 12 if dy and dx else 1 / 6
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            matrix[k, k] += weight
            if place in number:
                matrix[k, number[place]] -= weight
            else:
                right[k] += weight * image[:, place[0], place[1]].numpy()
    found, values = image.clone(), np.linalg.solve(matrix, right) if gone else right
    for (y, x), k in number.items():
        found[:, y, x] = torch.from_numpy(values[k])
    return found


def ordered(count: int, seed: int = 3, n: int = 3) -> tuple[Tensor, list[set[tuple[int, int]]]]:
    torch.manual_seed(seed)
    order = torch.stack([torch.randperm(PIXELS) for _ in range(n)])
    return order, [{divmod(int(p), SIDE) for p in row[:count]} for row in order]


@pytest.mark.parametrize(
    "solve", [imputation._dense, imputation._sparse, imputation._iterated], ids=lambda f: f.__name__
)
def test_missing_pixels_are_weighted_means_of_their_neighbours(solve: Any) -> None:
    images, _ = batch(side=SIDE)
    counts = (0, 1, 20, 35)
    order, _ = ordered(0)
    settings = {"tolerance": 1e-13} if solve is imputation._iterated else {}
    found = solve(images, order, counts, **settings)
    for step, count in enumerate(counts):
        _, gone = ordered(count)
        for row, image in enumerate(images):
            np.testing.assert_allclose(found[row, step], filled(image, gone[row]), **CLOSE)


def test_which_way_equations_are_solved_follows_size_and_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    for name in ("_dense", "_sparse"):
        monkeypatch.setattr(imputation, name, lambda *of, name=name: asked.append(name) or of[0])
    few, many = (5, 9), tuple(range(1, 35))
    for side, counts in ((6, few), (20, few), (20, many), (40, many)):
        images = torch.zeros(2, 1, side, side)
        imputation.impute(images, torch.zeros(2, side * side, dtype=torch.int64), counts)
    assert asked == ["_dense", "_sparse", "_dense", "_sparse"]


def slow_curves(of: Rows, relevance: Tensor, row: int, percentages: Any) -> tuple[Any, Any]:
    heat = relevance[row].sum(dim=0).flatten()
    order = sorted(range(PIXELS), key=lambda p: -float(heat[p]))
    images = [
        filled(of.inputs[row], {divmod(p, SIDE) for p in order[: int(PIXELS * each / 100)]})
        for each in (0, *percentages)
    ]
    with torch.no_grad():
        output = of.model(torch.stack(images))
    label = int(of.output[row].argmax())
    return output.softmax(dim=1)[:, label], output.argmax(dim=1)


def test_curves_are_those_of_filling_in_pixel_by_pixel() -> None:
    of, relevance = pictures()
    percentages = (2.0, 30.0, 75.0, 97.0)
    columns = measure(Road(percentages=percentages, noise=0.0), of, relevance)
    shares = np.array([0.0, *percentages])
    for row in range(3):
        curve, classes = slow_curves(of, relevance, row, percentages)
        np.testing.assert_allclose(columns["curve"][row], curve, **CLOSE)
        area = np.trapezoid(curve, shares) / 97.0
        np.testing.assert_allclose(columns["auc"][row], area, **CLOSE)
        if LABELS[row] < 0:
            assert columns["accuracy"][row].isnan().all()
            continue
        hits = (classes == LABELS[row]).double()
        assert columns["accuracy"][row].tolist() == hits.tolist()
        area = np.trapezoid(hits, shares) / 97.0
        np.testing.assert_allclose(columns["accuracy_auc"][row], area, **CLOSE)


def test_quantus_mode_asks_for_the_explained_class_from_the_first_percentage_on() -> None:
    of, relevance = pictures()
    columns = measure(Road(compat="quantus", noise=0.0), of, relevance)
    percentages = range(1, 100, 2)
    curve, classes = slow_curves(of, relevance, 2, percentages)
    np.testing.assert_allclose(columns["curve"][2], curve[1:], **CLOSE)
    hits = (classes[1:] == of.output[2].argmax()).double()
    assert columns["accuracy"][2].tolist() == hits.tolist()  # this one has no label


def test_noise_is_added_to_missing_pixels_alone_and_to_those_of_all_explainers_alike() -> None:
    of, relevance = pictures()
    quiet, loud = Road(noise=0.0, percentages=(50,)), Road(noise=0.1, percentages=(50,))
    case = loud.prepare(Case(of, TARGET))
    orders = [heat.sum(dim=1).flatten(1).argsort(dim=1) for heat in (relevance, -relevance)]
    noise = []
    for order in orders:
        added = loud._filled(case, order, slice(0, 3)) - quiet._filled(case, order, slice(0, 3))
        noise.append(added)
        is_gone = torch.zeros(3, PIXELS).scatter_(1, order[:, :18], 1.0).bool()
        assert torch.equal((added != 0).any(dim=2).flatten(1), is_gone)
    both = (noise[0] != 0) & (noise[1] != 0)
    torch.testing.assert_close(noise[0][both], noise[1][both], rtol=0, atol=1e-14)
    # 100 numbers and more: their deviation is known to 7 %
    assert float(noise[0][noise[0] != 0].std()) == pytest.approx(0.1, rel=0.25)


def test_curves_depend_on_no_batch_and_no_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    of, relevance = pictures()
    metric = Road(percentages=(10, 40, 80))
    together = measure(metric, of, relevance)
    alone = measure(metric, *pictures(slice(1, 2)))
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 2)
    monkeypatch.setattr("pipeline.metrics.imputation._ELEMENTS", 1)
    chunked = measure(metric, of, relevance)
    for column, values in together.items():
        torch.testing.assert_close(alone[column], values[1:2], equal_nan=True)
        torch.testing.assert_close(chunked[column], values, equal_nan=True)


def test_what_does_not_depend_on_maps_is_run_once() -> None:
    of, relevance = pictures()
    of.asked.clear()
    subjects = {"a": Subject(relevance), "b": Subject(-relevance), "c": Subject(relevance * 3)}
    found = Road(percentages=(20, 60)).scores(Case(of, TARGET), subjects)
    assert sum(of.asked) == 3 * 3 * 2  # three explainers, three samples, two percentages
    torch.testing.assert_close(found["a"], found["c"], equal_nan=True)


def test_maps_of_zeros_go_by_position_and_those_that_are_not_finite_score_nan_alone() -> None:
    of, relevance = pictures()
    spoiled = relevance.clone()
    spoiled[0, 1, 2, 3], spoiled[1] = torch.nan, 0.0
    falling = relevance.clone()
    falling[1] = -torch.arange(PIXELS).view(1, SIDE, SIDE)
    metric = Road(percentages=(25, 50))
    bad, good = (measure(metric, of, each) for each in (spoiled, falling))
    for column, values in bad.items():
        assert values[0].isnan().all()
        torch.testing.assert_close(values[1:], good[column][1:], equal_nan=True)


def test_every_sample_and_every_channel_counts() -> None:
    """What Quantus gets wrong: it scores the first batch only, and refuses several channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * PIXELS, 2)).double()
    inputs, relevance = torch.randn(2, 4, 3, SIDE, SIDE, dtype=torch.float64)
    whole = LabelledRows(model, inputs, Samples(torch.arange(4), torch.zeros(4).long()))
    columns = measure(Road(), whole, relevance)
    for row in range(4):
        part = slice(row, row + 1)
        samples = Samples(torch.arange(4)[part], torch.zeros(1).long())
        alone = measure(Road(), LabelledRows(model, inputs[part], samples), relevance[part])
        torch.testing.assert_close(alone["accuracy"], columns["accuracy"][part])
    assert len(columns["accuracy"].unique(dim=0)) > 1


def test_curves_and_their_areas_are_declared() -> None:
    metric = Road(percentages=(10, 50), order="lerf")
    curve, accuracy = metric.curves((1, SIDE, SIDE))
    assert curve.x == accuracy.x == (0.0, 10.0, 50.0)
    assert (curve.area, accuracy.area) == ("auc", "accuracy_auc")
    assert metric.direction == curve.direction == "higher"
    assert Road(compat="quantus").curves((1, SIDE, SIDE))[0].x[:2] == (1.0, 3.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"percentages": (0, 50)},
        {"percentages": (50, 100)},
        {"percentages": (50, 20)},
        {"percentages": ()},
        {"order": "lerf", "compat": "quantus"},
        {"noise": -1.0},
    ],
)
def test_settings_that_cannot_be_filled_in_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got|noise"):
        Road(**settings)


def test_inputs_without_neighbours_are_refused() -> None:
    of = Rows(nn.Linear(4, 2).double(), torch.randn(3, 4).double())
    with pytest.raises(ValueError, match="expected images"):
        Road().prepare(Case(of, TARGET))
