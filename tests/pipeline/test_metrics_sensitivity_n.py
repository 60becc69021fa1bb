"""Sensitivity-n: correlations by size within a sample, and those of Quantus across samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.metrics import Case
from pipeline.metrics.sensitivity_n import SensitivityN
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
CLOSE = {"rtol": 1e-10, "atol": 1e-12}  # float64; sums of some tens of terms


def test_the_curve_has_pearsons_correlation_over_subsets_of_every_size() -> None:
    inputs, relevance = batch()
    of, metric = trace(inputs), SensitivityN(n_sizes=3, n_draws=6)
    case = metric.prepare(Case(of, TARGET))
    drawn = case.shared["subsets"]
    assert [each.size for each in drawn] == [1, 4, 20]  # evenly by logarithm up to 0.8 of 25
    columns = metric.score(case, relevance)
    for position, each in enumerate(drawn):
        members = each.members(torch.arange(len(inputs) * 6)).view(-1, 6, SIDE, SIDE)
        for row, image in enumerate(inputs):
            heat, label = relevance[row].sum(dim=0), label_of(of, row)
            gone, blank = members[row], absent(image, "black")
            sums = [float(heat[each].sum()) for each in gone]
            with torch.no_grad():
                clean = of.model(image[None])[0, label]
                changed = torch.stack([torch.where(each, blank, image) for each in gone])
                drops = clean - of.model(changed)[:, label]
            expected = np.corrcoef(sums, drops)[0, 1]
            np.testing.assert_allclose(columns["curve"][row, position], expected, **CLOSE)
    torch.testing.assert_close(columns["sensitivity_n"], columns["curve"].mean(dim=1))
    error = columns["curve_error"].square().sum(dim=1).sqrt() / 3
    torch.testing.assert_close(columns["sensitivity_n_error"], error)


def test_contributions_of_a_linear_model_score_1_at_every_size() -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 3).double()
    of = trace(torch.randn(3, 12, dtype=torch.float64), model=model)
    contributions = of.inputs * model.weight.detach()[of.output.argmax(dim=1)]
    metric = SensitivityN(n_draws=4, baseline=0.0)
    columns = measure(metric, of, contributions)
    torch.testing.assert_close(columns["curve"], torch.ones_like(columns["curve"]))
    (curve,) = metric.curves((12,))
    assert len(curve.x) == columns["curve"].shape[1]
    assert curve.x[0] == 1 / 12


def quantus_terms(inputs: Any, relevance: Any, of: Any, step: int) -> tuple[Any, Any]:
    """Return the terms of Quantus 0.6: values go for good, sums are of the last step alone."""
    n_steps = int(0.8 * PIXELS // step)
    drops, sums = [], []
    for row, image in enumerate(inputs):
        label, changed = label_of(of, row), image.clone().reshape(-1)
        heat = relevance[row].expand_as(image).reshape(-1)
        order = np.argsort(-heat.numpy(), kind="stable")
        states, lost = [image], []
        for start in range(0, n_steps * step, step):
            gone = torch.as_tensor(order[start : start + step])
            changed = changed.clone()
            changed[gone] = image.min()
            states.append(changed.view_as(image))
            lost.append(float(heat[gone].sum()))
        with torch.no_grad():
            output = network()(torch.stack(states)).softmax(dim=1)[:, label]
        drops.append((output[0] - output[1:]).numpy())
        sums.append(lost)
    return np.array(drops), np.array(sums)


@pytest.mark.parametrize("step", [1, 3])
def test_quantus_mode_stores_terms_and_correlates_them_across_samples(step: int) -> None:
    inputs, relevance = batch(n=6)
    relevance = relevance.sum(dim=1, keepdim=True)
    metric = SensitivityN(compat="quantus", features_in_step=step)
    of = trace(inputs)
    columns = {name: each.numpy() for name, each in measure(metric, of, relevance).items()}
    drops, sums = quantus_terms(inputs, relevance, of, step)
    np.testing.assert_allclose(columns["drops"], drops, **CLOSE)
    np.testing.assert_allclose(columns["sums"], sums, **CLOSE)
    assert np.isnan(columns["sensitivity_n"]).all()
    columns = {name: np.concatenate([each, each[:1] * np.nan]) for name, each in columns.items()}
    found = metric.across(columns)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(drops.T, sums.T, strict=True)]
    np.testing.assert_allclose(found["curve"].value, expected, rtol=1e-8)
    np.testing.assert_allclose(found["sensitivity_n"].value, np.mean(expected), rtol=1e-8)
    z = np.arctanh(expected)
    np.testing.assert_allclose(found["curve"].low, np.tanh(z - 1.96 / np.sqrt(3)), rtol=1e-6)
    assert np.isnan(found["sensitivity_n"].low)


def test_across_says_nothing_of_one_sample_and_natively_nothing_at_all() -> None:
    inputs, relevance = batch(n=1)
    for compat in ("quantus", None):
        metric = SensitivityN(compat=compat, n_draws=3)
        columns = {
            name: each.numpy() for name, each in measure(metric, trace(inputs), relevance).items()
        }
        found = metric.across(columns)
        assert set(found) == ({"curve", "sensitivity_n"} if compat else set())
        assert all(np.isnan(each.value).all() for each in found.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"most": 0.0},
        {"most": 1.5},
        {"n_draws": 2},
        {"n_sizes": 0},
        {"features_in_step": 2},
        {"compat": "quantus", "n_sizes": 3},
        {"compat": "quantus", "baseline": "mean"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        SensitivityN(**settings)


def test_spaces_are_those_of_the_paper_or_of_quantus() -> None:
    assert SensitivityN().space == "logit"
    assert SensitivityN(compat="quantus").space == "probability"
    assert SensitivityN(compat="quantus").curves((CHANNELS, SIDE, SIDE)) == ()


def test_quantus_mode_takes_images_only() -> None:
    of = trace(torch.randn(3, 12, dtype=torch.float64), model=nn.Linear(12, 3).double())
    with pytest.raises(ValueError, match="expected images"):
        SensitivityN(compat="quantus").prepare(Case(of, TARGET))
