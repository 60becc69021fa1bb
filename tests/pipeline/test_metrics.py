"""Metrics against their definitions, written out slowly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.complexity import Sparseness
from pipeline.metrics.flipping import PixelFlipping
from pipeline.metrics.metric import Case


@dataclass
class FakeTrace:
    """What metrics ask of a trace."""

    network: Any
    inputs: Tensor
    classes: Tensor

    @property
    def output(self) -> Tensor:
        with torch.no_grad():
            return self.network(self.inputs)

    def cotangent(self, target: Any) -> Tensor:
        return torch.nn.functional.one_hot(self.classes, self.output.shape[1]).to(self.inputs)


class CountingNetwork(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rows: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows.append(len(inputs))
        return self.network(inputs)


def small_network(channels: int = 2, side: int = 4, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * side**2, classes),
    ).double()


def batch(channels: int = 2, side: int = 4, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (n, channels, side, side)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    relevance = torch.randn(shape, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 3, (n,), generator=generator)
    return inputs, relevance, classes


def flip(metric: PixelFlipping, network: nn.Module, *tensors: Tensor) -> dict[str, Tensor]:
    inputs, relevance, classes = tensors
    case = metric.prepare(Case(FakeTrace(network, inputs, classes), None))
    return metric.score(case, relevance)


def slow_curve(
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    label: int,
    counts: list[int],
    *,
    lerf: bool = False,
    baseline: str | float = "black",
    logit: bool = False,
) -> list[float]:
    """Flip pixel after pixel of one image, as the definition says."""
    channels, height, width = image.shape
    score = {
        (row, column): sum(float(relevance[c, row, column]) for c in range(channels))
        for row in range(height)
        for column in range(width)
    }
    pixels = sorted(score, key=lambda pixel: score[pixel] if lerf else -score[pixel])
    reduce = {"black": np.min, "white": np.max, "mean": np.mean}
    fill = [
        baseline if isinstance(baseline, float) else float(reduce[baseline](image[c].numpy()))
        for c in range(channels)
    ]
    curve = []
    for count in [0, *counts]:
        flipped = image.clone()
        for row, column in pixels[:count]:
            for c in range(channels):
                flipped[c, row, column] = fill[c]
        with torch.no_grad():
            output = network(flipped[None])[0]
        curve.append(float(output[label] if logit else output.softmax(0)[label]))
    return curve


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("baseline", ["black", "white", "mean", 0.25])
@pytest.mark.parametrize("output_space", ["probability", "logit"])
def test_the_curve_is_that_of_flipping_pixels_one_by_one(
    order: Any, baseline: Any, output_space: Any
) -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    metric = PixelFlipping(n_steps=7, order=order, baseline=baseline, output_space=output_space)
    columns = flip(metric, network, inputs, relevance, classes)
    counts = [k * 16 // 7 for k in range(1, 8)]
    for row in range(len(inputs)):
        expected = slow_curve(
            network,
            inputs[row],
            relevance[row],
            int(classes[row]),
            counts,
            lerf=order == "lerf",
            baseline=baseline,
            logit=output_space == "logit",
        )
        np.testing.assert_allclose(columns["curve"][row], expected, rtol=1e-12)
        area = np.trapezoid(expected, np.array([0, *counts]) / 16)
        np.testing.assert_allclose(columns["auc"][row], area, rtol=1e-12)


def test_a_linear_model_has_the_analytic_curve() -> None:
    torch.manual_seed(0)
    weights = torch.randn(3, 12, dtype=torch.float64)
    network = nn.Linear(12, 3).double()
    network.weight.data, network.bias.data = weights, torch.zeros(3, dtype=torch.float64)
    inputs = torch.randn(4, 12, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 0])
    relevance = inputs * weights[classes]
    metric = PixelFlipping(n_steps=12, baseline=0.0, output_space="logit")
    curve = flip(metric, network, inputs, relevance, classes)["curve"]
    ordered = relevance.sort(dim=1, descending=True).values
    total = relevance.sum(dim=1, keepdim=True)
    expected = torch.cat([total, total - ordered.cumsum(dim=1)], dim=1)
    torch.testing.assert_close(curve, expected, rtol=0, atol=1e-12)


def test_ties_flip_in_the_order_of_position() -> None:
    network, (inputs, _, classes) = small_network(), batch()
    zeros = torch.zeros_like(inputs)
    falling = -torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4).expand_as(inputs)
    for order in ("morf", "lerf"):
        tied = flip(PixelFlipping(n_steps=16, order=order), network, inputs, zeros, classes)
        sign = 1 if order == "morf" else -1
        told = flip(
            PixelFlipping(n_steps=16, order=order), network, inputs, sign * falling, classes
        )
        torch.testing.assert_close(tied["curve"], told["curve"], rtol=1e-12, atol=0)


def test_a_curve_does_not_depend_on_the_batch_nor_on_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    metric = PixelFlipping(n_steps=5)
    together = flip(metric, network, inputs, relevance, classes)["curve"]
    alone = flip(metric, network, inputs[2:3], relevance[2:3], classes[2:3])["curve"]
    torch.testing.assert_close(together[2:3], alone, rtol=1e-12, atol=0)
    monkeypatch.setattr("pipeline.metrics.removal.MOST_ROWS", 3)
    chunked = flip(metric, network, inputs, relevance, classes)["curve"]
    torch.testing.assert_close(together, chunked, rtol=1e-12, atol=0)


def test_explainers_share_the_outputs_before_and_after_all_flips() -> None:
    network, (inputs, relevance, classes) = CountingNetwork(small_network()), batch()
    metric = PixelFlipping(n_steps=4)
    case = metric.prepare(Case(FakeTrace(network, inputs, classes), None))
    network.rows.clear()
    metric.score(case, relevance)
    metric.score(case, -relevance)
    assert network.rows == [15, 15]  # 5 samples, 3 inner steps, in one forward per explainer


def test_a_map_that_is_not_finite_scores_nan_alone() -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    spoiled = relevance.clone()
    spoiled[1, 0, 2, 2] = torch.nan
    good = flip(PixelFlipping(n_steps=4), network, inputs, relevance, classes)
    bad = flip(PixelFlipping(n_steps=4), network, inputs, spoiled, classes)
    assert bad["curve"][1].isnan().all()
    assert bad["auc"][1].isnan()
    torch.testing.assert_close(bad["auc"][[0, 2, 3, 4]], good["auc"][[0, 2, 3, 4]])


def test_a_map_summed_over_channels_flips_as_the_whole_map_does() -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    metric = PixelFlipping(n_steps=4)
    whole = flip(metric, network, inputs, relevance, classes)["curve"]
    for summed in (relevance.sum(dim=1), relevance.sum(dim=1, keepdim=True)):
        torch.testing.assert_close(flip(metric, network, inputs, summed, classes)["curve"], whole)


def test_maps_of_another_shape_are_refused() -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    with pytest.raises(ValueError, match="got maps of shape"):
        flip(PixelFlipping(), network, inputs, relevance[:, :, :2], classes)


def test_direction_follows_the_order() -> None:
    assert PixelFlipping().direction == "lower"
    assert PixelFlipping(order="lerf").direction == "higher"
    assert PixelFlipping(output_space="logit").space == "logit"


@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": 3, "features_in_step": 2},
        {"n_steps": 0},
        {"compat": "quantus", "order": "lerf"},
        {"compat": "quantus", "baseline": "mean"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        PixelFlipping(**settings)


def quantus_pixel_flipping(
    network: nn.Module, inputs: Tensor, relevance: Tensor, classes: Tensor, step: int
) -> np.ndarray:
    """Quantus 0.6: flattened features, black is the least current value, no step 0."""
    curves = []
    for image, heat, label in zip(inputs, relevance, classes, strict=True):
        flat = image.numpy().reshape(-1).copy()
        order = np.argsort(-np.broadcast_to(heat.numpy(), image.shape).reshape(-1), kind="stable")
        curve = []
        for start in range(0, flat.size, step):
            flat[order[start : start + step]] = flat.min()
            with torch.no_grad():
                output = network(torch.from_numpy(flat.reshape(1, *image.shape)))
            curve.append(float(output.softmax(1)[0, label]))
        curves.append(curve)
    return np.array(curves)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_quantus_mode_flips_as_quantus_does(step: int) -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    relevance = relevance.sum(dim=1, keepdim=True)
    metric = PixelFlipping(features_in_step=step, compat="quantus")
    columns = flip(metric, network, inputs, relevance, classes)
    expected = quantus_pixel_flipping(network, inputs, relevance, classes, step)
    np.testing.assert_allclose(columns["curve"], expected, rtol=1e-12)
    area = np.trapezoid(expected, dx=1.0, axis=1)
    np.testing.assert_allclose(columns["auc"], area, rtol=1e-12)


def test_quantus_mode_flips_one_feature_per_step_unless_told() -> None:
    network, (inputs, relevance, classes) = small_network(), batch()
    curve = flip(PixelFlipping(compat="quantus"), network, inputs, relevance, classes)["curve"]
    assert curve.shape == (5, 32)


def gini_by_pairs(values: np.ndarray) -> float:
    """Mean absolute difference over twice the mean: Gini's own definition."""
    values = np.abs(values.reshape(-1).astype(np.float64))
    return float(np.abs(values[:, None] - values[None]).mean() / (2 * values.mean()))


def sparseness(relevance: Tensor, **settings: Any) -> Tensor:
    return Sparseness(**settings).score(Case(None, None), relevance)["sparseness"]


def test_sparseness_is_the_mean_difference_of_magnitudes() -> None:
    _, relevance, _ = batch()
    expected = [gini_by_pairs(heat.sum(0).numpy()) for heat in relevance]
    np.testing.assert_allclose(sparseness(relevance), expected, rtol=1e-12)


def test_sparseness_of_a_constant_is_0_and_of_a_single_feature_1_minus_1_over_d() -> None:
    relevance = torch.zeros(2, 1, 4, 5)
    relevance[0] = -3.0
    relevance[1, 0, 2, 2] = 7.0
    torch.testing.assert_close(
        sparseness(relevance), torch.tensor([0.0, 1 - 1 / 20], dtype=torch.float64)
    )


def test_sparseness_of_a_map_of_zeros_is_undefined_and_so_is_that_of_nan() -> None:
    relevance = torch.ones(3, 4)
    relevance[0] = 0.0
    relevance[1, 2] = torch.nan
    assert sparseness(relevance).isnan().tolist() == [True, True, False]


def test_sparseness_depends_on_neither_scale_nor_batch_and_mutates_nothing() -> None:
    _, relevance, _ = batch()
    before = relevance.clone()
    torch.testing.assert_close(sparseness(relevance * 1e-9), sparseness(relevance))
    torch.testing.assert_close(sparseness(relevance[:1]), sparseness(relevance)[:1])
    assert torch.equal(relevance, before)


def test_quantus_mode_scores_sparseness_as_quantus_does() -> None:
    _, relevance, _ = batch()
    relevance = torch.cat([relevance * 1e-6, relevance, torch.zeros_like(relevance[:1])])
    scaled = np.abs(relevance.numpy() / np.abs(relevance.numpy()).max())
    expected = []
    for heat in scaled:
        flat = np.sort(heat.reshape(-1) + 1e-7)
        rank = np.arange(1, flat.size + 1)
        expected.append(np.sum((2 * rank - flat.size - 1) * flat) / (flat.size * flat.sum()))
    measured = sparseness(relevance, compat="quantus")
    np.testing.assert_allclose(measured, expected, rtol=1e-9, atol=1e-12)
    assert float(measured[-1]) == pytest.approx(0.0, abs=1e-12)


def test_a_metric_is_a_value() -> None:
    assert PixelFlipping(n_steps=3) == PixelFlipping(n_steps=3)
    assert replace(PixelFlipping(), n_steps=3) == PixelFlipping(n_steps=3)
