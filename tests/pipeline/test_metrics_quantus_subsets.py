"""Metrics of subsets and ROAD beside those of Quantus 0.6 itself, and what that gets wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Network, Target, Trace
from pipeline.metrics import Case, build, imputation, sampled, scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Quantus warns of how it is called
]

# float32 networks; drops are differences of outputs, correlations of such differences
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
N, SIDE = 8, 12


@pytest.fixture(scope="module")
def quantus() -> Any:
    return pytest.importorskip("quantus")


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def pictures(request: pytest.FixtureRequest) -> Any:
    """Return a network, images between 0 and 1, their classes and maps without ties."""
    return made(request.param)


def made(channels: int) -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(256, 5)]
    model = nn.Sequential(*layers).eval()
    model[3].weight.data *= 5
    inputs = torch.rand(N, channels, SIDE, SIDE)
    with torch.no_grad():
        classes = model(inputs).argmax(dim=1)
    return model, inputs, classes, torch.randn(N, 1, SIDE, SIDE)


def called(metric: Any, pictures: Any, **settings: Any) -> Any:
    model, inputs, classes, relevance = pictures
    arrays = (inputs.numpy().copy(), classes.numpy(), relevance.numpy().copy())
    names = ("x_batch", "y_batch", "a_batch")
    given = dict(zip(names, arrays, strict=True)) | {"batch_size": N} | settings
    return metric(model=model, device="cpu", channel_first=True, **given)


def ours(name: str, pictures: Any, **settings: Any) -> dict[str, Tensor]:
    model, inputs, classes, relevance = pictures
    return scores(name, model, inputs, classes, relevance, compat="quantus", **settings)


def test_faithfulness_correlation_is_that_of_quantus_on_the_same_subsets(
    quantus: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs, classes, _ = pictures
    metric = build(
        "faithfulness_correlation", {"compat": "quantus", "subset_size": 30, "n_draws": 25}
    )
    case = metric.prepare(Case(Trace(Network(model, inputs[:2]), inputs), Target.parse(classes)))
    members = case.shared["subsets"].members(torch.arange(N * 25)).view(N, 25, -1)
    # asked run by run, and for each sample in it
    queue = [np.flatnonzero(members[row, run]) for run in range(25) for row in range(N)]
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: queue.pop(0))
    metric_of_theirs = quantus.FaithfulnessCorrelation(
        nr_runs=25, subset_size=30, return_aggregate=False, disable_warnings=True
    )
    expected = called(metric_of_theirs, pictures)
    assert not queue
    found = ours("faithfulness_correlation", pictures, subset_size=30, n_draws=25)
    np.testing.assert_allclose(found["faithfulness_correlation"], expected, **CLOSE)


@pytest.mark.parametrize(("channels", "step"), [(1, 1), (1, 6), (3, 1)])
def test_faithfulness_estimate_is_that_of_quantus(quantus: Any, channels: int, step: int) -> None:
    # in colour the values of a pixel tie: of blocks of several, numpy's sort decides there
    pictures = made(channels)
    metric = quantus.FaithfulnessEstimate(features_in_step=step, disable_warnings=True)
    found = ours("faithfulness_estimate", pictures, features_in_step=step)
    np.testing.assert_allclose(
        found["faithfulness_estimate"], called(metric, pictures, softmax=False), **CLOSE
    )


def test_sensitivity_n_is_that_of_quantus_where_one_batch_holds_all(quantus: Any) -> None:
    pictures = made(1)
    metric = quantus.SensitivityN(
        features_in_step=4, n_max_percentage=0.8, return_aggregate=False, disable_warnings=True
    )
    expected = called(metric, pictures)
    settings = {"features_in_step": 4, "compat": "quantus"}
    scored = ours("sensitivity_n", pictures, features_in_step=4)
    columns = {name: values.numpy() for name, values in scored.items()}
    found = build("sensitivity_n", settings).across(columns)
    assert len(expected) == 28
    np.testing.assert_allclose(found["curve"].value, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["sensitivity_n"].value, np.mean(expected), rtol=1e-4)
    # of two batches that library correlates the first alone; columns of both are ours
    first = called(metric, pictures, batch_size=N // 2)
    halves = {name: values[: N // 2] for name, values in columns.items()}
    alone = build("sensitivity_n", settings).across(halves)
    np.testing.assert_allclose(alone["curve"].value, first, rtol=1e-3, atol=1e-4)
    assert np.abs(np.array(first) - expected).max() > 0.1


def test_infidelity_is_that_of_quantus(quantus: Any, pictures: Any) -> None:
    for side in (3, 4):
        metric = quantus.Infidelity(
            perturb_patch_sizes=[side], n_perturb_samples=2, disable_warnings=True
        )
        found = ours("infidelity", pictures, square=side)["infidelity"]
        np.testing.assert_allclose(found, called(metric, pictures), rtol=1e-4)


def test_road_is_that_of_quantus_with_the_same_noise(
    quantus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = made(1)
    percentages = tuple(range(5, 100, 6))
    drawn, randn = [], np.random.randn

    def recorded(*shape: int) -> Any:
        drawn.append(randn(*shape))
        return drawn[-1]

    monkeypatch.setattr(np.random, "randn", recorded)
    np.random.seed(0)
    metric = quantus.ROAD(percentages=percentages, noise=0.3, disable_warnings=True)
    expected = called(metric, pictures)
    # asked percentage by percentage, for pixels in the order in which they go
    order = pictures[3].flatten(1).argsort(dim=1, descending=True)
    noise = torch.zeros(N, len(percentages), SIDE * SIDE)
    for number, values in enumerate(drawn):
        step, row = divmod(number, N)
        values = torch.from_numpy(values).float().flatten()
        noise[row, step, order[row, : len(values)]] = values
    monkeypatch.setattr(sampled, "normal", lambda *_: noise.flatten(0, 1))
    found = ours("road", pictures, percentages=percentages, noise=0.3)["accuracy"].mean(dim=0)
    assert found.tolist() == [expected[each] for each in percentages]  # hits are whole numbers
    assert 0 < found.mean() < 1


def test_road_of_quantus_scores_the_first_batch_alone(quantus: Any) -> None:
    pictures = made(1)
    settings = {"percentages": (20, 50, 80), "noise": 0.0}
    metric = quantus.ROAD(disable_warnings=True, **settings)
    halves = called(metric, pictures, batch_size=N // 2)
    hits = ours("road", pictures, **settings)["accuracy"]
    assert list(halves.values()) == hits[: N // 2].mean(dim=0).tolist()
    assert list(called(metric, pictures).values()) == hits.mean(dim=0).tolist()


def test_road_of_quantus_takes_no_colours_and_ours_does(quantus: Any) -> None:
    pictures = made(3)
    metric = quantus.ROAD(percentages=[20, 50], noise=0.0, disable_warnings=True)
    with pytest.raises(IndexError):
        called(metric, pictures)
    found = ours("road", pictures, percentages=(20, 50), noise=0.0)["accuracy"]
    assert found.isfinite().all()


def test_pictures_are_filled_in_as_quantus_does(quantus: Any, pictures: Any) -> None:
    from quantus.functions.perturb_func import noisy_linear_imputation

    _, inputs, _, relevance = pictures
    order = relevance.flatten(1).argsort(dim=1, descending=True)
    counts = (1, 40, 100, 143)
    found = imputation.impute(inputs, order, counts)
    for row, image in enumerate(inputs):
        for step, count in enumerate(counts):
            gone = order[row, :count].numpy()
            expected = noisy_linear_imputation(image.double().numpy(), gone, noise=0.0)
            # float32 results of float64 equations
            np.testing.assert_allclose(found[row, step], expected, atol=1e-6)


def test_hits_do_not_depend_on_how_equations_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 36, 10)).eval()
    model[2].weight.data *= 5
    # blobs, in whose middle the equations are hardest
    inputs, relevance = (
        nn.functional.avg_pool2d(torch.randn(12, channels, 30, 30), 7, stride=1) * 5
        for channels in (3, 1)
    )
    with torch.no_grad():
        classes = model(inputs).argmax(dim=1)
    of, settings = (model, inputs, classes, relevance), {"percentages": (5, 35, 65, 95)}
    exact = ours("road", of, **settings)
    monkeypatch.setattr(imputation, "impute", imputation._iterated)
    iterated = ours("road", of, **settings)
    assert torch.equal(iterated["accuracy"], exact["accuracy"])
    assert 0.05 < float(exact["accuracy"].mean()) < 0.95
    torch.testing.assert_close(iterated["curve"], exact["curve"], rtol=0, atol=2e-3)
