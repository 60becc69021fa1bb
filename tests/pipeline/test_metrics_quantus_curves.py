"""Curves beside those of Quantus 0.6 itself, and what that library's monotonicity cannot tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Network
from pipeline.metrics import scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Quantus warns of how it is called
]

# float32 networks; sums in another order, tens of units in the last place of a share of 1
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
N, SIDE = 4, 20


@pytest.fixture(scope="module")
def quantus() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "trapz", np.trapezoid, raising=False)
        yield pytest.importorskip("quantus")


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def pictures(request: pytest.FixtureRequest) -> Any:
    """Return a module and its network, images, their classes and maps without ties."""
    channels = request.param
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 5, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(256, 5)]
    model = nn.Sequential(*layers).eval()
    model[3].weight.data *= 5
    inputs = torch.rand(N, channels, SIDE, SIDE)
    relevance = torch.randn(N, channels, SIDE, SIDE)
    return model, Network(model, inputs), inputs, torch.tensor([0, 3, 1, 1]), relevance


def called(metric: Any, pictures: Any, **settings: Any) -> list[Any]:
    model, _, inputs, classes, relevance = pictures
    arrays = (inputs.numpy().copy(), classes.numpy(), relevance.numpy().copy())
    found: list[Any] = metric(
        model=model,
        x_batch=arrays[0],
        y_batch=arrays[1],
        a_batch=arrays[2],
        device="cpu",
        channel_first=True,
        **settings,
    )
    return found


def ours(name: str, pictures: Any, **settings: Any) -> dict[str, Tensor]:
    _, network, inputs, classes, relevance = pictures
    return scores(name, network, inputs, classes, relevance, compat="quantus", **settings)


QUIET = {"disable_warnings": True, "return_aggregate": False}


@pytest.mark.parametrize("baseline", ["black", 0.5])
def test_pixel_flipping(quantus: Any, pictures: Any, baseline: Any) -> None:
    metric = quantus.PixelFlipping(features_in_step=20, perturb_baseline=baseline, **QUIET)
    expected = np.array(called(metric, pictures))
    columns = ours("pixel_flipping", pictures, features_in_step=20, baseline=baseline)
    np.testing.assert_allclose(columns["curve"], expected, **CLOSE)
    np.testing.assert_allclose(columns["auc"].mean(), metric.get_auc_score, rtol=1e-5)


@pytest.mark.parametrize(
    ("order", "size", "baseline", "softmax", "most"),
    [("morf", 8, "black", True, 100), ("lerf", 7, 0.5, False, 5)],
)
def test_region_perturbation(
    quantus: Any, pictures: Any, order: str, size: int, baseline: Any, softmax: bool, most: int
) -> None:
    metric = quantus.RegionPerturbation(
        patch_size=size,
        order=order,
        perturb_baseline=baseline,
        regions_evaluation=most,
        **QUIET,
    )
    expected = called(metric, pictures, softmax=softmax)
    columns = ours(
        "region_perturbation",
        pictures,
        patch_size=size,
        order=order,
        baseline=baseline,
        n_regions=most,
        output_space="probability" if softmax else "logit",
    )
    np.testing.assert_allclose(columns["curve"], np.stack(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(columns["auc"].mean(), metric.get_auc_score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "baseline"), [(8, "black"), (5, "white")])
def test_selectivity(quantus: Any, pictures: Any, size: int, baseline: str) -> None:
    metric = quantus.Selectivity(patch_size=size, perturb_baseline=baseline, **QUIET)
    expected = called(metric, pictures)
    columns = ours("selectivity", pictures, patch_size=size, baseline=baseline)
    np.testing.assert_allclose(columns["curve"], np.stack(expected), **CLOSE)
    np.testing.assert_allclose(columns["auc"].mean(), metric.get_auc_score, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["mean", "white"])
def test_irof_of_one_image_a_batch(quantus: Any, pictures: Any, baseline: Any) -> None:
    pytest.importorskip("skimage")
    metric = quantus.IROF(perturb_baseline=baseline, **QUIET)
    if pictures[2].shape[1] > 1:
        with pytest.raises(AssertionError):  # its mask has one channel; ours takes colours
            called(metric, pictures, batch_size=1)
        assert ours("irof", pictures, baseline=baseline)["aoc"].isfinite().all()
        return
    expected = called(metric, pictures, batch_size=1)
    columns = ours("irof", pictures, baseline=baseline)
    np.testing.assert_allclose(columns["aoc"], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("baseline", ["black", 0.5])
def test_monotonicity_of_quantus_holds_for_any_map_and_ours_does_not(
    quantus: Any, pictures: Any, baseline: Any
) -> None:
    metric = quantus.Monotonicity(features_in_step=20, perturb_baseline=baseline, **QUIET)
    assert {bool(each) for each in called(metric, pictures)} == {True}
    _, network, inputs, classes, relevance = pictures
    columns = scores("monotonicity", network, inputs, classes, relevance, baseline=baseline)
    assert columns["strict"].tolist() == [0.0] * N
    assert columns["monotonicity"].unique().numel() > 1
