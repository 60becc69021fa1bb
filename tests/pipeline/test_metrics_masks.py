"""Maps beside masks: numpy's correlation and Jaccard's sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.metrics import score
from pipeline.metrics.masks import MaskCorrelation, MaskJaccard
from pipeline.metrics.metric import Case


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def squares(n: int = 4, height: int = 5, width: int = 6) -> Tensor:
    mask = torch.zeros(n, height, width, dtype=torch.bool)
    for row in range(n):
        mask[row, row % 3 : row % 3 + 2, 1 : 3 + row % 2] = True
    return mask


def agreement(name: str, relevance: Tensor, mask: Tensor | None, **settings: str) -> Tensor:
    return score(name, None, relevance, None, relevance, mask, **settings)


def jaccard_of_sets(values: np.ndarray, mask: np.ndarray) -> float:
    values, mask = values.reshape(-1), mask.reshape(-1)
    mean = sum(values) / len(values)
    exceeding = {place for place, value in enumerate(values) if value > mean}
    inside = {place for place, value in enumerate(mask) if value}
    return len(exceeding & inside) / len(exceeding | inside)


@pytest.mark.parametrize("channels", ["sum", "each"])
def test_scores_are_those_of_numpy_and_of_sets(channels: str) -> None:
    relevance, mask = maps(4, 3, 5, 6), squares()
    correlation = agreement("mask_correlation", relevance, mask, channels=channels)
    jaccard = agreement("mask_jaccard", relevance, mask, channels=channels)
    for row in range(4):
        heat = relevance[row].numpy()
        beside = np.broadcast_to(mask[row].numpy(), heat.shape)
        if channels == "sum":
            heat, beside = heat.sum(axis=0), beside[0]
        expected = np.corrcoef(heat.reshape(-1), beside.reshape(-1).astype(float))[0, 1]
        # of 90 values in float64, summed in another order
        assert float(correlation[row]) == pytest.approx(expected, abs=1e-13)
        assert float(jaccard[row]) == jaccard_of_sets(heat, beside)


@pytest.mark.parametrize("name", ["mask_correlation", "mask_jaccard"])
def test_a_mask_agrees_with_itself(name: str) -> None:
    mask = squares()
    # rounding of a sum of squares is all that is left
    torch.testing.assert_close(
        agreement(name, mask[:, None].expand(-1, 3, -1, -1).double(), mask),
        torch.ones(4, dtype=torch.float64),
        rtol=0,
        atol=1e-14,
    )


def test_the_opposite_of_a_mask_correlates_by_minus_1() -> None:
    mask = squares()
    assert agreement("mask_correlation", (~mask).double(), mask).tolist() == pytest.approx([-1] * 4)
    assert agreement("mask_jaccard", (~mask).double(), mask).tolist() == [0.0] * 4


@pytest.mark.parametrize("name", ["mask_correlation", "mask_jaccard"])
def test_scores_depend_on_neither_scale_nor_batch(name: str) -> None:
    relevance, mask = maps(4, 2, 5, 6), squares()
    together = agreement(name, relevance, mask)
    torch.testing.assert_close(agreement(name, relevance[2:3], mask[2:3]), together[2:3])
    for scale in (1e-200, 1e200):
        torch.testing.assert_close(agreement(name, relevance * scale + 0, mask), together)


def test_what_has_no_score_is_nan_and_the_rest_is_not() -> None:
    relevance, mask = maps(5, 1, 5, 6), squares(5)
    relevance[0, 0, 2, 2] = torch.nan
    relevance[1, 0, 0, 0] = torch.inf
    relevance[2] = 0.1  # the same everywhere, though its float64 mean is not quite it
    mask[3] = False
    mask[4] = True
    correlation = agreement("mask_correlation", relevance, mask)
    assert correlation.isnan().all()
    jaccard = agreement("mask_jaccard", relevance, mask)
    assert jaccard.isnan().tolist() == [True, True, False, True, False]
    assert float(jaccard[2]) == 0.0
    assert float(jaccard[4]) == (relevance[4] > relevance[4].mean()).double().mean()


@pytest.mark.parametrize(
    ("of_map", "of_mask"),
    [
        ((1, 16), (1, 16)),  # a string in a row of an image of height 1, or of one channel
        ((1, 1, 16), (1, 16)),
        ((16,), (1, 16)),
        ((16,), (16,)),
        ((1, 16), (16,)),
        ((1, 4, 4), (4, 4)),
        ((4, 4), (4, 4)),
        ((1, 4, 4), (1, 4, 4)),
    ],
)
@pytest.mark.parametrize("channels", ["sum", "each"])
def test_maps_and_masks_of_rows_fit(
    of_map: tuple[int, ...], of_mask: tuple[int, ...], channels: str
) -> None:
    values = maps(3, 16)
    mask = values > 0.2
    found = agreement(
        "mask_jaccard", values.view(3, *of_map), mask.view(3, *of_mask), channels=channels
    )
    assert found.tolist() == [jaccard_of_sets(v, m) for v, m in zip(values, mask, strict=True)]


def test_masks_of_another_shape_are_refused() -> None:
    for relevance in (maps(4, 3, 5, 5), maps(4, 6, 5), maps(4, 2, 3, 5, 6)):
        with pytest.raises(ValueError, match=r"masks of shape \(4, 5, 6\), expected"):
            agreement("mask_jaccard", relevance, squares())
    with pytest.raises(ValueError, match="got no masks"):
        agreement("mask_correlation", maps(4, 5, 6), None)


def test_a_mask_of_numbers_is_where_they_are_positive_and_nothing_is_changed() -> None:
    relevance, mask = maps(4, 5, 6), squares()
    before = relevance.clone()
    for metric in (MaskCorrelation(), MaskJaccard()):
        of_numbers = metric.score(Case(None, None, mask=mask * 255), relevance)
        of_truth = metric.score(Case(None, None, mask=mask), relevance)
        assert torch.equal(of_numbers[metric.headline], of_truth[metric.headline])
        assert metric.direction == "higher"
    assert torch.equal(relevance, before)
