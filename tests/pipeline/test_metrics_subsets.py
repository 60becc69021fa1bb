"""Correlations of relevance with what the output loses, against their definitions, slowly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics import Case, Metric, build
from pipeline.metrics.correlation import pearson
from pipeline.metrics.faithfulness_correlation import FaithfulnessCorrelation
from pipeline.metrics.faithfulness_estimate import FaithfulnessEstimate
from pipeline.metrics.metric import Subject
from tests.pipeline.exchanged import (
    CHANNELS,
    SIDE,
    TARGET,
    absent,
    batch,
    label_of,
    measure,
    network,
    trace,
)

PIXELS = SIDE * SIDE
# float64; sums of 25 terms in another order, standardised
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def dropped(
    image: Tensor, every_gone: list[list[int]], label: int, baseline: Any, space: str
) -> list[float]:
    """Return what is lost when pixels become the baseline, for each list of pixels."""
    blank = absent(image, baseline)
    variants = [image]
    for gone in every_gone:
        changed = image.clone()
        for pixel in gone:
            y, x = divmod(pixel, SIDE)
            changed[:, y, x] = blank[:, y, x]
        variants.append(changed)
    return losses(variants, label, space)


def losses(variants: list[Tensor], label: int, space: str) -> list[float]:
    with torch.no_grad():
        output = network()(torch.stack(variants))
    values = (output.softmax(dim=1) if space == "probability" else output)[:, label]
    return (values[0] - values[1:]).tolist()


@pytest.mark.parametrize(
    ("baseline", "space"), [("black", "probability"), ("mean", "logit"), (0.5, "logit")]
)
def test_faithfulness_correlation_is_pearsons_over_subsets(baseline: Any, space: Any) -> None:
    inputs, relevance = batch()
    metric = FaithfulnessCorrelation(
        n_draws=12, subset_size=7, baseline=baseline, output_space=space
    )
    of = trace(inputs)
    case = metric.prepare(Case(of, TARGET))
    members = case.shared["subsets"].members(torch.arange(len(inputs) * 12)).view(-1, 12, PIXELS)
    assert (members.sum(dim=2) == 7).all()
    found = metric.score(case, relevance)["faithfulness_correlation"]
    for row, image in enumerate(inputs):
        heat = relevance[row].sum(dim=0).flatten()
        gone = [[p for p in range(PIXELS) if members[row, draw, p]] for draw in range(12)]
        sums = [sum(float(heat[p]) for p in each) for each in gone]
        drops = dropped(image, gone, label_of(of, row), baseline, space)
        np.testing.assert_allclose(found[row], np.corrcoef(sums, drops)[0, 1], **CLOSE)


@pytest.mark.parametrize(("baseline", "n_steps"), [("white", None), (0.0, 6)])
def test_faithfulness_estimate_is_pearsons_over_blocks(baseline: Any, n_steps: int | None) -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    metric = FaithfulnessEstimate(n_steps=n_steps, baseline=baseline)
    found = measure(metric, of, relevance)["faithfulness_estimate"]
    counts = [k * PIXELS // (n_steps or PIXELS) for k in range((n_steps or PIXELS) + 1)]
    for row, image in enumerate(inputs):
        heat = relevance[row].sum(dim=0).flatten()
        order = sorted(range(PIXELS), key=lambda p: -float(heat[p]))
        blocks = [order[a:b] for a, b in pairwise(counts)]
        sums = [sum(float(heat[p]) for p in block) for block in blocks]
        drops = dropped(image, blocks, label_of(of, row), baseline, "probability")
        np.testing.assert_allclose(found[row], np.corrcoef(sums, drops)[0, 1], **CLOSE)


def linear_rows() -> tuple[Any, Tensor]:
    """Return a trace of a linear model and the contributions of its inputs."""
    torch.manual_seed(2)
    model = nn.Linear(9, 3, bias=False).double()
    of = trace(torch.randn(3, 9, dtype=torch.float64), model=model)
    return of, of.inputs * model.weight.detach()[of.output.argmax(dim=1)]


LINEAR: list[Metric] = [
    FaithfulnessCorrelation(n_draws=5, subset_size=3, baseline=0.0),
    FaithfulnessEstimate(baseline=0.0, output_space="logit"),
]


@pytest.mark.parametrize("metric", LINEAR, ids=lambda metric: metric.name)
def test_contributions_of_a_linear_model_are_faithful_whatever_their_scale(metric: Metric) -> None:
    of, contributions = linear_rows()
    for factor, expected in ((1.0, 1.0), (1e-12, 1.0), (-7.0, -1.0)):
        columns = measure(metric, of, contributions * factor)
        np.testing.assert_allclose(columns[metric.headline], expected, rtol=1e-9)
        if f"{metric.headline}_error" in columns:
            assert (columns[f"{metric.headline}_error"] < 1e-6).all()


ALL = ["faithfulness_correlation", "faithfulness_estimate", "sensitivity_n", "infidelity"]
SETTINGS: dict[str, dict[str, Any]] = {
    "faithfulness_correlation": {"n_draws": 6},
    "faithfulness_estimate": {},
    "sensitivity_n": {"n_draws": 4, "n_sizes": 2},
    "infidelity": {"n_draws": 6},
}


@pytest.mark.parametrize("name", ALL)
def test_scores_depend_on_no_batch_no_chunks_and_on_no_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, relevance = batch()
    metric = build(name, SETTINGS[name])
    together = measure(metric, trace(inputs), relevance)
    alone = measure(metric, trace(inputs, slice(1, 2)), relevance[1:2])
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 4)
    monkeypatch.setattr("pipeline.metrics.subsets.MOST_KEPT", 0)
    monkeypatch.setattr("pipeline.metrics.perturbations.MOST_KEPT", 0)
    chunked = measure(metric, trace(inputs), relevance)
    for column, values in together.items():
        torch.testing.assert_close(alone[column], values[1:2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(chunked[column], values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*ALL, "road"])
def test_permuted_inputs_score_as_others_do(name: str) -> None:
    inputs, relevance = batch()
    settings = [SETTINGS.get(name, {})]
    settings += [{"noise": "gaussian", "n_draws": 3}] if name == "infidelity" else []
    permuted = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for each in settings:
        metric = build(name, each)
        plain, other = (trace(of) for of in (inputs, permuted))
        plain.parent = other.parent = None
        columns = measure(metric, other, relevance.to(memory_format=torch.channels_last))
        for column, values in measure(metric, plain, relevance).items():
            torch.testing.assert_close(columns[column], values, equal_nan=True)


@pytest.mark.parametrize("name", ALL)
def test_perturbed_forwards_are_made_once_for_all_explainers(name: str) -> None:
    inputs, relevance = batch()
    metric, of = build(name, SETTINGS[name]), trace(inputs)
    of.asked.clear()
    subjects = {str(k): Subject(relevance * k) for k in (1, 2, 3)}
    found = metric.scores(Case(of, TARGET), subjects)
    n_passes = {
        "faithfulness_correlation": 6,
        "faithfulness_estimate": PIXELS,
        "sensitivity_n": 2 * 4,
        "infidelity": 6,
    }
    assert sum(of.asked) == len(inputs) * n_passes[name]
    if name != "infidelity":
        torch.testing.assert_close(found["3"][metric.headline], found["1"][metric.headline])


@pytest.mark.parametrize("name", ALL)
def test_a_map_that_is_not_finite_scores_nan_alone(name: str) -> None:
    inputs, relevance = batch()
    spoiled = relevance.clone()
    spoiled[0, 0, 1, 1], spoiled[2, 1, 0, 0] = torch.nan, torch.inf
    metric = build(name, SETTINGS[name])
    good, bad = (measure(metric, trace(inputs), each) for each in (relevance, spoiled))
    for column, values in bad.items():
        assert values[[0, 2]].isnan().all()
        torch.testing.assert_close(values[1], good[column][1])


@pytest.mark.parametrize("name", ALL[:3])
def test_what_does_not_vary_correlates_with_nothing(name: str) -> None:
    inputs, relevance = batch()
    inputs[1] = 0.3  # is its own baseline
    relevance[0], relevance[2] = 0.0, 0.1  # sums of 0.1 are alike but for rounding
    columns = measure(build(name, SETTINGS[name]), trace(inputs), relevance)
    assert all(values.isnan().all() for values in columns.values())


def test_maps_may_be_sums_over_channels() -> None:
    inputs, relevance = batch()
    for name in ALL[:3]:
        metric = build(name, SETTINGS[name])
        whole, summed = (
            measure(metric, trace(inputs), each)[metric.headline]
            for each in (relevance, relevance.sum(dim=1, keepdim=True))
        )
        torch.testing.assert_close(summed, whole)
    with pytest.raises(ValueError, match="got maps of shape"):
        measure(metric, trace(inputs), relevance[:, :, 1:])


def test_the_error_is_the_spread_over_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2000, 100, generator=generator, dtype=torch.float64)
    b = 0.6 * a + 0.8 * torch.randn(2000, 100, generator=generator, dtype=torch.float64)
    one = torch.ones(2000, dtype=torch.float64)
    found, error = pearson(a, b, one, one)
    # of 2000 repetitions the spread is known to 1.6 %, three times that; the estimate is a
    # little small, by some hundredths at 100 draws
    assert float(error.mean() / found.std()) == pytest.approx(1.0, abs=0.08)
    # Fisher's large-sample formula for normal pairs
    assert float(found.std()) == pytest.approx((1 - 0.36) / 10, rel=0.05)


def test_correlation_is_numpys_and_nan_for_constants() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 30, dtype=torch.float64) * 1e-8
    b[2] = 5e-9
    scale = torch.full((4,), 1e-8, dtype=torch.float64)
    found, error = pearson(a, b, scale, scale)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True) if y.std() > 0]
    np.testing.assert_allclose(found[[0, 1, 3]], expected, rtol=1e-9)
    assert found[2].isnan()
    assert error[2].isnan()


def test_quantus_mode_takes_values_for_features() -> None:
    inputs, relevance = batch()
    of = trace(inputs)
    found = measure(FaithfulnessEstimate(compat="quantus"), of, relevance)
    for row, image in enumerate(inputs):
        variants = [image]
        for value in range(CHANNELS * PIXELS):
            variants.append(image.clone())
            variants[-1].view(-1)[value] = image.min()
        drops = losses(variants, label_of(of, row), "logit")
        expected = np.corrcoef(relevance[row].flatten(), drops)[0, 1]
        np.testing.assert_allclose(found["faithfulness_estimate"][row], expected, **CLOSE)


def test_spaces_and_sizes_are_those_of_the_papers_or_of_quantus() -> None:
    assert FaithfulnessCorrelation().space == "logit"
    assert FaithfulnessEstimate().space == "probability"
    assert FaithfulnessEstimate(compat="quantus").space == "logit"
    inputs, _ = batch()
    sizes = [
        FaithfulnessCorrelation(subset_size=size).prepare(Case(trace(inputs), TARGET))
        for size in (None, 0.5, 3)
    ]
    assert [case.shared["subsets"].size for case in sizes] == [5, 12, 3]


@pytest.mark.parametrize("settings", [{"n_draws": 2}, {"subset_size": 1.5}, {"subset_size": 0}])
def test_settings_that_make_no_subsets_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"n_draws|subset_size"):
        FaithfulnessCorrelation(**settings)


def test_subsets_of_everything_are_refused() -> None:
    inputs, relevance = batch()
    with pytest.raises(ValueError, match="expected fewer than there are"):
        measure(FaithfulnessCorrelation(subset_size=PIXELS), trace(inputs), relevance)
    with pytest.raises(ValueError, match="of 50 features"):
        measure(FaithfulnessCorrelation(compat="quantus"), trace(inputs), relevance)
