"""DeepLIFT over a distribution of baselines: against Captum, and as a mean of `deep_lift`."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace
from tests.explainers.twins import seeded

# Same formula, same float64: what is left is the order of sums.
TOLERANCE = {"rtol": 0, "atol": 1e-12}


@functools.cache
def network() -> tuple[nn.Module, Network, Tensor, Tensor]:
    """A network for which Captum is sound, itself read, three samples and seven baselines."""
    layers: list[nn.Module] = [nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Conv1d(4, 4, 1), nn.MaxPool1d(2)]
    model = seeded(nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 4)))
    drawn = torch.randn(10, 2, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return model, Network(model, drawn[:3]), drawn[:3], drawn[3:]


def by_captum(model: nn.Module, inputs: Tensor, baselines: Tensor, **params: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        method = captum.attr.DeepLiftShap(model, **params)
        return method.attribute(inputs, baselines, target=2, return_convergence_delta=True)


@pytest.mark.parametrize("multiply", [True, False])
def test_maps_are_captums(multiply: bool) -> None:
    model, read, inputs, baselines = network()
    expected, delta = by_captum(model, inputs, baselines, multiply_by_inputs=multiply)
    bound = explainers.get("deep_lift_shap")(read, baselines=baselines, multiply_by_inputs=multiply)
    found = bound.explain(inputs, 2)
    torch.testing.assert_close(found.relevance, expected.detach(), **TOLERANCE)
    if multiply:  # Captum's is that of its map, which is then no map of differences
        mean_delta = delta.view(3, 7).mean(1)
        torch.testing.assert_close(found.arrays["convergence_delta"], mean_delta, **TOLERANCE)


@pytest.mark.parametrize("params", [{}, {"maxpool": "gradient", "eps": 1e-5}])
def test_the_map_is_the_mean_over_baselines_and_its_error_that_of_a_mean(
    params: dict[str, Any],
) -> None:
    _, read, inputs, baselines = network()
    found = explainers.get("deep_lift_shap")(read, background=baselines, **params).explain(inputs)
    each = [
        explainers.get("deep_lift")(read, baseline=row[None], **params).explain(inputs)
        for row in baselines
    ]
    maps = torch.stack([one.relevance for one in each])
    torch.testing.assert_close(found.relevance, maps.mean(0), **TOLERANCE)
    torch.testing.assert_close(found.arrays["standard_error"], maps.std(0) / 7**0.5, **TOLERANCE)
    delta = torch.stack([one.arrays["convergence_delta"] for one in each]).mean(0)
    torch.testing.assert_close(found.arrays["convergence_delta"], delta, **TOLERANCE)


def test_the_map_sums_to_the_targets_height_above_its_mean() -> None:
    _, read, inputs, baselines = network()
    found = explainers.get("deep_lift_shap")(read, baselines=baselines).explain(inputs, 1)
    expected = read(inputs)[:, 1] - read(baselines)[:, 1].mean()
    torch.testing.assert_close(found.relevance.sum((1, 2)), expected, **TOLERANCE)
    assert float(found.arrays["convergence_delta"].abs().max()) < 1e-12


def test_the_scans_result_is_a_background() -> None:
    _, read, inputs, baselines = network()
    scanned = explainers.scan(read, "background", [inputs, baselines], n_samples=4)
    found = explainers.get("deep_lift_shap")(read, background=scanned).attribute(inputs, 0)
    stored = {name: value.numpy() for name, value in scanned.items()}  # as a run's store gives it
    again = explainers.get("deep_lift_shap")(read, background=stored).attribute(inputs, 0)
    rows = torch.cat([inputs, baselines])[scanned["sample"]]
    expected = explainers.get("deep_lift_shap")(read, baselines=rows).attribute(inputs, 0)
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


def test_no_pass_has_more_rows_than_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    _, read, inputs, baselines = network()
    rows: list[int] = []
    run = read.run

    def counted(batch: Tensor, **others: Any) -> dict[str, Tensor]:
        rows.append(len(batch))
        return run(batch, **others)

    monkeypatch.setattr(read, "run", counted)
    trace, target = Trace(read, inputs), Target.parse(1)
    trace.gradient(target)
    explainers.build("deep_lift_shap", baselines=baselines).relevance(trace, target)
    assert rows == [3, *[1] * 7]


def test_one_baseline_has_no_standard_error() -> None:
    _, read, inputs, baselines = network()
    found = explainers.get("deep_lift_shap")(read, baselines=baselines[:1]).explain(inputs, 0)
    assert bool(found.arrays["standard_error"].isnan().all())
    expected = explainers.explain(read, "deep_lift", inputs, 0, baseline=baselines[:1])
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=0)


def test_in_a_run_the_background_is_a_scan() -> None:
    known = {entry["name"]: entry for entry in explainers.available()}["deep_lift_shap"]
    assert known["needs"] == {"background": "background"}
    assert "baselines" not in known["parameters"]
    assert known["cost"].backward == explainers.build("background").n_samples  # type: ignore[attr-defined]


@pytest.mark.parametrize("background", [torch.zeros(0, 2, 8), torch.tensor(0.0)])
def test_a_background_without_rows_is_refused(background: Tensor) -> None:
    _, read, _, _ = network()
    with pytest.raises(ValueError, match="with at least one row"):
        explainers.get("deep_lift_shap")(read, background=background)


def test_a_background_that_is_missing_or_does_not_fit_is_refused() -> None:
    _, read, inputs, _ = network()
    with pytest.raises(ValueError, match="got no background; pass baselines="):
        explainers.explain(read, "deep_lift_shap", inputs)
    with pytest.raises(ValueError, match=r"got a background of shape \(5, 2, 9\)"):
        explainers.explain(read, "deep_lift_shap", inputs, baselines=torch.zeros(5, 2, 9))
