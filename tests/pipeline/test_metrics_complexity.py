"""How few features carry a map, counted and summed one by one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.metrics import score, scores


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def measured(name: str, relevance: Tensor, **settings: Any) -> Tensor:
    return score(name, None, relevance, None, relevance, **settings)


def entropy(heat: Tensor, shift: float = 0.0) -> float:
    magnitudes = [abs(value) for value in heat.reshape(-1).tolist()]
    shares = [value / sum(magnitudes) for value in magnitudes]
    return -sum(share * math.log(share + shift) for share in shares if share > 0)


def exceeding(heat: Tensor, threshold: float) -> int:
    return sum(abs(value) > threshold for value in heat.reshape(-1).tolist())


@pytest.mark.parametrize("channels", ["sum", "each"])
def test_complexity_is_the_entropy_of_shares(channels: str) -> None:
    relevance = maps(4, 3, 5, 6)
    relevance[0, :, 0] = 0.0
    seen = relevance.sum(dim=1) if channels == "sum" else relevance
    found = measured("complexity", relevance, channels=channels)
    assert found.tolist() == pytest.approx([entropy(heat) for heat in seen], rel=1e-12)


def gini(heat: Tensor) -> float:
    magnitudes = [abs(value) for value in heat.reshape(-1).tolist()]
    gaps = [abs(one - other) for one in magnitudes for other in magnitudes]
    return sum(gaps) / (2 * len(magnitudes) * sum(magnitudes))


@pytest.mark.parametrize("channels", ["sum", "each"])
def test_sparseness_is_of_pixels_or_of_values(channels: str) -> None:
    relevance = maps(2, 3, 4, 4)
    seen = relevance.sum(dim=1) if channels == "sum" else relevance
    found = measured("sparseness", relevance, channels=channels)
    assert found.tolist() == pytest.approx([gini(heat) for heat in seen], rel=1e-12)


@pytest.mark.parametrize("name", ["sparseness", "complexity", "effective_complexity"])
def test_a_value_is_a_feature_for_quantus(name: str) -> None:
    relevance = maps(3, 3, 5, 6)
    by_value = measured(name, relevance.flatten(1), compat="quantus")
    for channels in ("sum", "each"):
        found = measured(name, relevance, compat="quantus", channels=channels)
        torch.testing.assert_close(found, by_value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("channels", ["sum", "each"])
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_effective_complexity_counts_features(channels: str, eps: float) -> None:
    relevance = maps(4, 3, 5, 6)
    relevance[0, :, 0] = 0.0
    seen = relevance.sum(dim=1) if channels == "sum" else relevance
    found = scores(
        "effective_complexity", None, relevance, None, relevance, channels=channels, eps=eps
    )
    expected = [exceeding(heat, eps * float(heat.abs().max())) for heat in seen]
    assert found["effective_complexity"].tolist() == expected
    assert found["share"].tolist() == [count / seen[0].numel() for count in expected]


def test_one_feature_is_the_simplest_and_an_even_map_the_most_complex() -> None:
    relevance = torch.zeros(2, 4, 5)
    relevance[0, 2, 3], relevance[1] = -7.0, 0.3
    assert measured("complexity", relevance).tolist() == pytest.approx([0.0, math.log(20)])
    assert measured("effective_complexity", relevance).tolist() == [1.0, 20.0]


@pytest.mark.parametrize("compat", [None, "quantus"])
def test_maps_of_zeros_and_of_nan_have_defined_scores(compat: str | None) -> None:
    relevance = maps(3, 4, 5)
    relevance[0] = 0.0
    relevance[1, 2, 2] = torch.nan
    assert measured("complexity", relevance, compat=compat).isnan().tolist() == [True, True, False]
    counts = measured("effective_complexity", relevance, compat=compat)
    assert counts[0] == 0.0
    assert counts.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["complexity", "effective_complexity"])
def test_scores_depend_on_neither_scale_nor_batch_and_change_nothing(name: str) -> None:
    relevance = maps(4, 2, 5, 6)
    before = relevance.clone()
    together = measured(name, relevance)
    torch.testing.assert_close(measured(name, relevance[2:3]), together[2:3], rtol=0, atol=1e-14)
    for scale in (1e-200, 1e200):
        torch.testing.assert_close(measured(name, relevance * scale), together)
    assert torch.equal(relevance, before)


def test_quantus_mode_is_that_of_its_formulas() -> None:
    relevance = torch.cat([maps(3, 1, 5, 6), maps(1, 1, 5, 6) * 1e-5])
    found = measured("complexity", relevance, compat="quantus")
    assert found.tolist() == pytest.approx([entropy(heat, 1e-12) for heat in relevance], rel=1e-12)
    counts = measured("effective_complexity", relevance, compat="quantus", eps=1e-5)
    largest = float(relevance.abs().max())
    assert counts.tolist() == [exceeding(heat, 1e-5 * largest) for heat in relevance]


@pytest.mark.parametrize("eps", [-0.1, 1.0])
def test_a_threshold_that_nothing_exceeds_is_refused(eps: float) -> None:
    with pytest.raises(ConfigError, match="expected a share"):
        measured("effective_complexity", maps(2, 4), eps=eps)
