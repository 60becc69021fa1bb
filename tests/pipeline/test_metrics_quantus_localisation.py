"""Localisation and complexity beside Quantus 0.6, and where it is wrong."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.metrics import score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ABSOLUTE = "AttributionLocalisation"


@pytest.fixture(scope="module")
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def maps() -> Tensor:
    return torch.randn(12, 1, 9, 8, generator=torch.Generator().manual_seed(3))


def masks() -> Tensor:
    mask = torch.zeros(12, 1, 9, 8, dtype=torch.bool)
    for row in range(12):
        mask[row, 0, row % 5 : row % 5 + 3, 1 + row % 3 : 4 + row % 4] = True
    return mask


def of_quantus(quantus: Any, name: str, relevance: Tensor, mask: Tensor | None, **init: Any) -> Any:
    metric = getattr(quantus, name)(disable_warnings=True, **init)
    return metric(
        model=None,
        x_batch=np.zeros(tuple(relevance.shape), np.float32),
        y_batch=np.zeros(len(relevance), np.int64),
        a_batch=relevance.numpy().copy(),
        s_batch=None if mask is None else mask.numpy(),
        channel_first=True,
    )


@pytest.mark.parametrize(
    ("name", "theirs", "settings"),
    [
        ("pointing_game", "PointingGame", {}),
        ("relevance_rank_accuracy", "RelevanceRankAccuracy", {}),
        ("relevance_mass_accuracy", "RelevanceMassAccuracy", {}),
        ("top_k_intersection", "TopKIntersection", {"k": 7}),
        ("top_k_intersection", "TopKIntersection", {"k": 7, "concept_influence": True}),
        ("attribution_localisation", "AttributionLocalisation", {}),
        ("localisation_auc", "AUC", {}),
        ("complexity", "Complexity", {}),
        ("effective_complexity", "EffectiveComplexity", {"eps": 0.1}),
    ],
)
def test_quantus_mode_has_the_numbers_of_quantus(
    quantus: Any, name: str, theirs: str, settings: dict[str, Any]
) -> None:
    relevance, mask = maps(), masks()
    expected = of_quantus(quantus, theirs, relevance, mask, **settings)
    found = score(name, None, relevance, None, relevance, mask[:, 0], compat="quantus", **settings)
    # Quantus sums 72 values in float32
    np.testing.assert_allclose(found, np.asarray(expected, np.float64), rtol=1e-4, atol=1e-6)


def test_an_empty_mask_is_a_hit_for_quantus_and_no_score_here(quantus: Any) -> None:
    relevance, mask = maps(), torch.zeros(12, 1, 9, 8, dtype=torch.bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask[1:] = masks()[1:]
        assert of_quantus(quantus, "PointingGame", relevance, mask)[0] == 1.0
    assert score("pointing_game", None, relevance, None, relevance, mask[:, 0])[0].isnan()


def test_weights_fail_in_quantus_and_discount_large_masks_here(quantus: Any) -> None:
    relevance, mask = maps(), masks()
    theirs = of_quantus(quantus, ABSOLUTE, relevance, mask, weighted=True)
    larger = torch.cat([relevance, relevance]), torch.cat([mask, mask])
    of_more = of_quantus(quantus, ABSOLUTE, *larger, weighted=True)
    # the same samples in a larger batch have other scores
    assert not np.allclose(theirs, of_more[:12])
    ours = [
        score("attribution_localisation", None, a, None, a, m[:, 0], weighted=True)
        for a, m in ((relevance, mask), larger)
    ]
    torch.testing.assert_close(ours[0], ours[1][:12])


def test_one_map_of_nan_takes_all_scores_of_quantus_and_one_of_ours(quantus: Any) -> None:
    relevance, mask = maps(), masks()
    relevance[3, 0, 0, 0] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = of_quantus(quantus, "RelevanceMassAccuracy", relevance, mask)
    assert np.isnan(theirs).all()
    ours = score("relevance_mass_accuracy", None, relevance, None, relevance, mask[:, 0])
    assert ours.isnan().sum() == 1


def test_completeness_is_chance_in_quantus_and_a_residual_here(quantus: Any) -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(12, 3).eval()
    inputs, classes = torch.randn(32, 12), torch.arange(32) % 3
    relevance = inputs * network.weight.detach()[classes]
    metric = quantus.Completeness(
        abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    theirs = metric(
        model=network,
        x_batch=inputs.numpy(),
        y_batch=classes.numpy(),
        a_batch=relevance.numpy().copy(),
        channel_first=True,
    )
    # some sums of floats happen to be equal, on some processors half of them
    assert np.mean(theirs) < 0.9
    ours = score("completeness", network, inputs, classes, relevance)
    # 12 products in float32, of a change that may be small
    assert float(ours.median()) < 1e-6


def test_effective_complexity_of_quantus_depends_on_the_batch_and_ours_does_not(
    quantus: Any,
) -> None:
    relevance = maps()
    relevance[4:] *= 100.0
    theirs = of_quantus(quantus, "EffectiveComplexity", relevance, None, eps=0.01)
    alone = of_quantus(quantus, "EffectiveComplexity", relevance[:4], None, eps=0.01)
    assert theirs[:4] != alone
    ours = score("effective_complexity", None, relevance, None, relevance, eps=0.01)
    few = relevance[:4]
    torch.testing.assert_close(
        ours[:4], score("effective_complexity", None, few, None, few, eps=0.01)
    )
