"""IROF against removing superpixels one by one, with superpixels that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers.features.labels import Labels
from explainers.features.slic import Slic
from pipeline.metrics import Case, scores
from pipeline.metrics.irof import IROF
from pipeline.metrics.metric import Subject
from tests.pipeline.exchanged import (
    INDEX,
    SIDE,
    TARGET,
    N,
    absent,
    batch,
    explained,
    label_of,
    measure,
    network,
    ordered,
    trace,
    walk,
)

# float64 sums of some thirty products: rounding stays some orders below
EXACT = {"rtol": 1e-12, "atol": 1e-14}
COUNTS = {0: 4, 1: 1, 2: 6}
Groups = list[list[tuple[int, int]]]


def cells_of(row: int) -> Tensor:
    """Return superpixels of one sample, uneven ones; the second sample is one superpixel."""
    cells = torch.arange(SIDE**2).view(SIDE, SIDE) ** 2 % COUNTS[row]
    return torch.unique(cells, return_inverse=True)[1]


def groups_of(row: int) -> Groups:
    cells = cells_of(row)
    return [
        [(y, x) for y in range(SIDE) for x in range(SIDE) if int(cells[y, x]) == number]
        for number in range(int(cells.max()) + 1)
    ]


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Slic]:
    """Give the samples their superpixels; return what was asked for."""
    asked: list[Slic] = []
    if "slow" in request.keywords:
        return asked

    def labels(slic: Slic, shape: tuple[int, ...], rows: Any) -> Labels:
        asked.append(slic)
        numbers = [INDEX.tolist().index(index) for index in rows.index.tolist()]
        cells = torch.stack([cells_of(number) for number in numbers])
        counts = tuple(int(each.max()) + 1 for each in cells)
        return Labels(cells[:, None], counts, are_of_samples=True)

    monkeypatch.setattr(Slic, "labels", labels)
    return asked


@pytest.mark.parametrize(
    ("baseline", "space"), [("mean", "probability"), (0.5, "probability"), ("black", "logit")]
)
def test_the_score_is_the_area_over_the_ratio_while_superpixels_go(
    baseline: Any, space: Any
) -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    columns = measure(IROF(baseline=baseline, output_space=space, n_steps=7), of, relevance)
    for row in range(N):
        going = ordered(groups_of(row), relevance[row], descending=True, by_mean=True)
        blank, label = absent(inputs[row], baseline), label_of(of, row)
        values = np.array(walk(of.model, inputs[row], blank, going, label, space))
        ratio, share = values / values[0], np.arange(len(values)) / (len(values) - 1)
        np.testing.assert_allclose(columns["aoc"][row], 1 - np.trapezoid(ratio, share), **EXACT)
        at_shares = np.interp(np.arange(8) / 7, share, ratio)
        np.testing.assert_allclose(columns["curve"][row], at_shares, **EXACT)
    assert len(IROF(n_steps=7).curves((2, 5, 5))[0].x) == 8


def quantus_aoc(of: Any, row: int, heat: Tensor, baseline: str | float) -> float:
    """Quantus 0.6, one image a batch: a mean of what is left, and no unperturbed point."""
    current, ratios = of.inputs[row].clone(), []
    label = label_of(of, row)
    clean = explained(of.model, current, label)
    for group in ordered(groups_of(row), heat, descending=True, by_mean=True):
        reduce = {"mean": current.mean(), "black": current.min(), "white": current.max()}
        fill = float(reduce[baseline]) if isinstance(baseline, str) else baseline
        for y, x in group:
            current[:, y, x] = fill
        ratios.append(explained(of.model, current, label) / clean)
    return len(ratios) - float(np.trapezoid(ratios))


@pytest.mark.parametrize("baseline", ["mean", "black", "white", 0.25])
def test_quantus_mode_counts_as_quantus_does(baseline: Any) -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    columns = measure(IROF(compat="quantus", baseline=baseline), of, relevance)
    expected = [quantus_aoc(of, row, relevance[row], baseline) for row in range(N)]
    np.testing.assert_allclose(columns["aoc"], expected, **EXACT)


def test_quantus_mode_divides_grey_images_as_quantus_does(found: list[Slic]) -> None:
    inputs, relevance = batch()
    measure(IROF(compat="quantus"), trace(inputs), relevance)
    measure(IROF(n_segments=9, sigma=1.0), trace(inputs), relevance)
    assert found == [Slic(100, 1000.0), Slic(9, 10.0, 1.0)]


@pytest.mark.parametrize("compat", [None, "quantus"])
def test_a_score_depends_on_neither_batch_nor_chunks(
    monkeypatch: pytest.MonkeyPatch, compat: Any
) -> None:
    inputs, relevance = batch()
    metric = IROF(compat=compat)
    together = measure(metric, trace(inputs), relevance)
    for row in range(N):
        alone = measure(metric, trace(inputs, slice(row, row + 1)), relevance[row : row + 1])
        for name, values in alone.items():
            torch.testing.assert_close(together[name][row : row + 1], values, rtol=1e-12, atol=0)
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 2)
    chunked = measure(metric, trace(inputs), relevance)
    torch.testing.assert_close(together, chunked, rtol=1e-12, atol=0)


def test_superpixels_and_both_ends_are_found_once_for_all_explainers(found: list[Slic]) -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    of.asked.clear()
    subjects = {name: Subject(sign * relevance) for name, sign in (("a", 1), ("b", -1))}
    IROF().scores(Case(of, TARGET), subjects)
    inner = sum(len(groups_of(row)) - 1 for row in range(N))
    assert of.asked == [N, inner, inner]
    assert len(found) == 1


def test_nan_stays_alone_and_ties_go_by_number() -> None:
    inputs, relevance = batch()
    spoiled = relevance.clone()
    spoiled[0, 1, 0, 0] = torch.nan
    good, bad = (measure(IROF(), trace(inputs), each) for each in (relevance, spoiled))
    for name, values in bad.items():
        assert values[0].isnan().all()
        assert torch.equal(values[1:], good[name][1:])
    falling = -torch.stack([cells_of(row) for row in range(N)]).double()
    tied = measure(IROF(), trace(inputs), torch.zeros_like(inputs))
    told = measure(IROF(), trace(inputs), falling)
    assert all(torch.equal(tied[name], told[name]) for name in tied)


def test_there_is_no_ratio_to_an_output_that_is_not_positive() -> None:
    inputs, relevance = batch()
    model = nn.Sequential(network(), nn.Linear(3, 3)).double()
    model[1].weight.data = torch.eye(3, dtype=torch.float64)
    model[1].bias.data = torch.full((3,), -0.5, dtype=torch.float64)
    of = trace(inputs, model=model)
    is_positive = of.output.amax(1) > 0
    assert 0 < int(is_positive.sum()) < N
    columns = measure(IROF(output_space="logit"), of, relevance)
    assert torch.equal(columns["aoc"].isfinite(), is_positive)
    assert torch.equal(columns["curve"].isnan().all(1), ~is_positive)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_segments": 0},
        {"compactness": 0.0},
        {"n_steps": 0},
        {"baseline": {"blur": -1.0}},
        {"compat": "quantus", "baseline": "uniform"},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        IROF(**settings)


def test_direction_and_space_are_declared() -> None:
    assert IROF().direction == "higher"
    assert IROF(output_space="logit").space == "logit"


@pytest.mark.slow  # scikit-image takes its time to be imported
def test_the_superpixels_are_those_of_slic() -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    inputs, relevance = batch(channels=3, side=16)
    inputs = inputs.sigmoid()
    model = network(3, 16)
    columns = scores("irof", model, inputs, None, relevance, n_segments=9)
    of = trace(inputs, model=model)
    for row in range(N):
        image = inputs[row]
        scaled = (image - image.min()) / (image.max() - image.min())
        cells = segmentation.slic(
            scaled.permute(1, 2, 0).numpy(), n_segments=9, compactness=10.0, start_label=0
        )
        groups: Groups = [
            list(zip(*(axis.tolist() for axis in np.nonzero(cells == number)), strict=True))
            for number in np.unique(cells)
        ]
        going = ordered(groups, relevance[row], descending=True, by_mean=True)
        blank, label = absent(image, "mean"), label_of(of, row)
        values = np.array(walk(of.model, image, blank, going, label))
        expected = 1 - np.trapezoid(values / values[0], dx=1 / len(groups))
        # the network is read as a program, whose sums may be taken in another order
        np.testing.assert_allclose(columns["aoc"][row], expected, rtol=1e-9, atol=1e-12)
