"""Maps beside masks, counted place by place."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.metrics import score
from pipeline.metrics.localisation import LocalisationAUC, PointingGame
from pipeline.metrics.metric import Case

NAMES = [
    "pointing_game",
    "relevance_rank_accuracy",
    "top_k_intersection",
    "relevance_mass_accuracy",
    "attribution_localisation",
    "localisation_auc",
]
CHANCE = {"relevance_mass_accuracy": math.nan, "attribution_localisation": math.nan}
"""What a map of zeros scores, where it is not the mask's share."""


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def squares(n: int = 4, height: int = 5, width: int = 6) -> Tensor:
    mask = torch.zeros(n, height, width, dtype=torch.bool)
    for row in range(n):
        mask[row, row % 3 : row % 3 + 2, 1 : 3 + row % 2] = True
    return mask


def located(name: str, relevance: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
    return score(name, None, relevance, None, relevance, mask, **settings)


def over_orders_of_ties(heat: list[float], inside: list[bool], k: int) -> float:
    """Mean share of the first k places that is inside, over all orders that the values allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(heat)))
        if all(heat[a] >= heat[b] for a, b in itertools.pairwise(order))
    ]
    return sum(sum(inside[place] for place in order[:k]) / k for order in orders) / len(orders)


def slowly(name: str, heat: list[float], inside: list[bool]) -> float:
    """The score of a map, place by place; without ties."""
    n, m = len(heat), sum(inside)
    falling = sorted(range(n), key=lambda place: -heat[place])
    if name == "pointing_game":
        return float(inside[falling[0]])
    if name == "relevance_rank_accuracy":
        return sum(inside[place] for place in falling[:m]) / m
    if name == "top_k_intersection":
        k = math.ceil(0.05 * n)
        return sum(inside[place] for place in falling[:k]) / k
    if name == "localisation_auc":
        pairs = [(a, b) for a in range(n) for b in range(n) if inside[a] and not inside[b]]
        return sum((heat[a] > heat[b]) + 0.5 * (heat[a] == heat[b]) for a, b in pairs) / len(pairs)
    positive = [max(value, 0.0) for value in heat]
    return sum(value for value, is_in in zip(positive, inside, strict=True) if is_in) / sum(
        positive
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", ["sum", "each"])
def test_scores_are_what_counting_places_gives(name: str, channels: str) -> None:
    relevance, mask = maps(4, 3, 5, 6), squares()
    found = located(name, relevance, mask, channels=channels)
    for row in range(4):
        heat = relevance[row].sum(dim=0) if channels == "sum" else relevance[row]
        inside = mask[row].expand_as(heat).reshape(-1).tolist()
        # of 90 values in float64, summed in another order
        assert float(found[row]) == pytest.approx(
            slowly(name, heat.reshape(-1).tolist(), inside), abs=1e-13
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_locates_itself_and_its_opposite_does_not(name: str) -> None:
    mask = squares()
    assert located(name, mask.double(), mask).tolist() == pytest.approx([1.0] * 4)
    assert located(name, (~mask).double(), mask).tolist() == pytest.approx([0.0] * 4)


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_on_neither_scale_nor_batch_and_change_nothing(name: str) -> None:
    relevance, mask = maps(4, 2, 5, 6), squares()
    before = relevance.clone()
    together = located(name, relevance, mask)
    torch.testing.assert_close(located(name, relevance[2:3], mask[2:3]), together[2:3])
    for scale in (1e-200, 1e200):
        torch.testing.assert_close(located(name, relevance * scale, mask), together)
    assert torch.equal(relevance, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compat", [None, "quantus"])
def test_maps_that_are_not_finite_and_empty_masks_are_nan_alone(
    name: str, compat: str | None
) -> None:
    relevance, mask = maps(4, 1, 5, 6), squares()
    settings = {"k": 3} if name == "top_k_intersection" else {}
    whole = located(name, relevance, mask, compat=compat, **settings)
    relevance[0, 0, 2, 2] = torch.nan
    relevance[1, 0, 0, 0] = torch.inf
    mask[2] = False
    found = located(name, relevance, mask, compat=compat, **settings)
    assert found[:3].isnan().all()
    torch.testing.assert_close(found[3], whole[3])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_a_map_that_is_the_same_everywhere_scores_what_chance_does(name: str, value: float) -> None:
    mask = squares()
    share = mask.double().mean(dim=(1, 2))
    expected = torch.full_like(share, 0.5) if name == "localisation_auc" else share
    expected = torch.full_like(share, CHANCE[name]) if name in CHANCE else expected
    found = located(name, torch.full((4, 5, 6), value), mask)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_ties_score_the_mean_over_their_orders() -> None:
    heat = [2.0, 1.0, 1.0, 1.0, 0.0, -1.0]
    inside = [False, True, False, True, True, False]
    relevance = torch.tensor(heat, dtype=torch.float64)[None]
    mask = torch.tensor(inside)[None]
    for k in range(1, 7):
        found = located("top_k_intersection", relevance, mask, k=k)
        assert float(found) == pytest.approx(over_orders_of_ties(heat, inside, k))
    ranked = located("relevance_rank_accuracy", relevance, mask)
    assert float(ranked) == pytest.approx(over_orders_of_ties(heat, inside, 3))
    pointed = located("pointing_game", relevance[:, 1:], mask[:, 1:])
    assert float(pointed) == pytest.approx(2 / 3)
    assert float(located("localisation_auc", relevance, mask)) == slowly(
        "localisation_auc", heat, inside
    )


def test_a_point_within_the_tolerance_of_the_mask_hits() -> None:
    mask = torch.zeros(7, 9, 9, dtype=torch.bool)
    mask[:, 3:5, 3:6] = True
    mask[6] = False
    points = [(2, 2), (3, 1), (1, 4), (8, 8), (4, 4), (0, 0), (0, 0)]
    relevance = torch.zeros(7, 1, 9, 9)
    for row, (y, x) in enumerate(points):
        relevance[row, 0, y, x] = 1.0
    for tolerance in (0.5, 1.0, 1.5, 2.0, 3.9):
        expected = [
            float(min(math.dist(point, place) for place in mask[row].nonzero()) <= tolerance)
            for row, point in enumerate(points[:6])
        ]
        found = located("pointing_game", relevance, mask, tolerance=tolerance)
        assert found[:6].tolist() == expected
        assert found[6].isnan()


def test_the_sign_says_what_counts() -> None:
    relevance = torch.tensor([[-4.0, 1.0, 2.0, -1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False]])
    for sign, expected in (("signed", 1.5), ("positive", 1 / 3), ("absolute", 5 / 8)):
        found = located("relevance_mass_accuracy", relevance, mask, sign=sign)
        assert float(found) == pytest.approx(expected)
    assert float(located("pointing_game", relevance, mask)) == 0.0
    assert float(located("pointing_game", relevance, mask, sign="absolute")) == 1.0


def test_large_masks_are_discounted_or_left_out() -> None:
    relevance, mask = maps(3, 4, 5).abs(), torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[0, 0, 0], mask[1, :2], mask[2, :3] = True, True, True
    plain = located("attribution_localisation", relevance, mask)
    weighted = located("attribution_localisation", relevance, mask, weighted=True)
    torch.testing.assert_close(weighted, plain * torch.tensor([20.0, 2.0, 20 / 15]))
    within = located("attribution_localisation", relevance, mask, max_size=0.5)
    assert within.isnan().tolist() == [False, False, True]
    influence = located("top_k_intersection", relevance, mask, k=4, concept_influence=True)
    torch.testing.assert_close(
        influence,
        located("top_k_intersection", relevance, mask, k=4) * torch.tensor([20.0, 2.0, 20 / 15]),
    )


def test_masks_of_everything_have_nothing_beside_them() -> None:
    relevance, mask = maps(2, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool)
    assert located("localisation_auc", relevance, mask).isnan().all()
    for name in NAMES[:5]:
        assert located(name, relevance, mask).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pointing_game", {"tolerance": -1.0}),
        ("pointing_game", {"tolerance": 2.0, "compat": "quantus"}),
        ("top_k_intersection", {"k": 0}),
        ("top_k_intersection", {"share": 0.0}),
        ("attribution_localisation", {"max_size": 0.0}),
        ("attribution_localisation", {"weighted": True, "compat": "quantus"}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="got"):
        located(name, maps(4, 5, 6), squares(), **settings)


def test_more_values_than_a_map_has_are_refused() -> None:
    with pytest.raises(ValueError, match="got k 31 for maps of 30 values"):
        located("top_k_intersection", maps(4, 5, 6), squares(), k=31)
    with pytest.raises(ValueError, match="got k 1000"):
        located("top_k_intersection", maps(4, 5, 6), squares(), compat="quantus")
    with pytest.raises(ValueError, match="and a tolerance"):
        located("pointing_game", maps(4, 2, 5, 6), maps(4, 2, 5, 6) > 0, tolerance=2.0)


def test_masks_of_numbers_and_of_rows_fit() -> None:
    values = maps(3, 16)
    mask = values > 0.2
    for metric in (PointingGame(tolerance=2.0), LocalisationAUC()):
        of_rows = metric.score(Case(None, None, mask=mask), values)
        of_pictures = metric.score(
            Case(None, None, mask=mask.view(3, 1, 16) * 255), values.view(3, 1, 1, 16)
        )
        np.testing.assert_equal(of_rows[metric.headline].numpy(), 1.0)
        np.testing.assert_equal(of_pictures[metric.headline].numpy(), 1.0)
        assert metric.direction == "higher"
