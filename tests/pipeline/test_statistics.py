"""Tests and intervals say what closed forms, enumerations and the tables of papers say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.statistics import (
    cliff,
    critical_difference,
    friedman,
    holm,
    kendall,
    kendall_per_sample,
    letters,
    mean_ranks,
    paired,
    ranks,
    wilcoxon,
    wilson,
)

DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        # the table prints .975 twice but ranks them 2 and 3
        [0.972, 0.981, 0.9752, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
"""Accuracies of table 6: the four decision trees on 14 data sets."""


def test_ranks_and_critical_difference_are_those_of_demsar() -> None:
    found = friedman(-DEMSAR)
    assert found.mean_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    # section 3.2.2 has 9.28 and 3.69 by the formula without ties
    plain = 12 * 14 / (4 * 5) * (np.square(found.mean_ranks).sum() - 4 * 5**2 / 4)
    assert plain == pytest.approx(9.28, abs=5e-3)
    spread = np.square(ranks(-DEMSAR) - 2.5).sum()
    assert found.statistic == pytest.approx(plain * (14 * 4 * 5 * 3 / 12) / spread)
    assert found.f == pytest.approx(13 * found.statistic / (14 * 3 - found.statistic))
    assert 0.001 < found.p < 0.05


@pytest.mark.parametrize(
    ("k", "quantile"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (8, 3.031), (10, 3.164)],
)
def test_nemenyi_quantiles_are_those_of_the_table(k: int, quantile: float) -> None:
    # table 5 (a) of Demsar rounds to three digits, two of them by one too far
    found = critical_difference(k, 10) / math.sqrt(k * (k + 1) / 60)
    assert found == pytest.approx(quantile, abs=1.2e-3)


def test_contestants_that_always_rank_alike_leave_no_doubt() -> None:
    found = friedman(np.tile([1.0, 2.0, 3.0], (6, 1)))
    assert found.statistic == pytest.approx(6 * 2)  # N (k - 1) is its greatest value
    assert (found.p, math.isinf(found.f)) == (0.0, True)
    nothing = friedman(np.ones((5, 3)))
    assert (nothing.statistic, nothing.p, nothing.mean_ranks) == (0.0, 1.0, (2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="leave out blocks"):
        friedman([[1.0, np.nan], [1.0, 2.0]])


@pytest.mark.parametrize("decimals", [3, 0], ids=["distinct", "ties"])
def test_signed_ranks_are_counted_over_all_signs(decimals: int) -> None:
    difference = np.round(np.random.default_rng(1).normal(1.0, 2.0, 9), decimals)
    found = wilcoxon(difference)
    kept = difference[difference != 0]
    rank = ranks(np.abs(kept)[None])[0]
    middle = rank.sum() / 2
    far = abs(rank[kept > 0].sum() - middle)
    signs = itertools.product((0, 1), repeat=len(kept))
    sums = [abs(np.dot(each, rank) - middle) >= far - 1e-9 for each in signs]
    assert found == pytest.approx(np.mean(sums))


def test_many_signed_ranks_are_normal() -> None:
    # 60 distinct differences, of which the ten least are negative: W+ = 1830 - 55
    difference = np.arange(1, 61) * np.where(np.arange(60) < 10, -1.0, 1.0)
    z = (1830 - 55 - 915) / math.sqrt(60 * 61 * 121 / 24)
    assert wilcoxon(difference) == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_no_difference_is_no_evidence() -> None:
    same = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert (same.dominance, paired([np.nan], [1.0]).n) == (0.0, 0)


def test_pairs_are_compared_where_both_are_known() -> None:
    found = paired([1.0, 3.0, np.nan, 5.0, 2.0], [0.0, 1.0, 1.0, 2.0, np.inf])
    assert (found.n, found.difference, found.dominance) == (3, 2.0, 1.0)
    # t of two degrees of freedom at 97.5 %: 4.30265
    assert found.high - 2.0 == pytest.approx(4.30265 * 1.0 / math.sqrt(3), rel=1e-5)
    assert found.p == pytest.approx(2 / 2**3)
    one = paired([1.0], [0.0])
    assert (one.n, math.isnan(one.low)) == (1, True)
    with pytest.raises(ValueError, match="pair the scores"):
        paired([1.0, 2.0], [1.0])


def test_delta_counts_all_pairs() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, 13), rng.integers(1, 6, 17)
    assert cliff(a, b) == pytest.approx(np.mean(np.sign(a[:, None] - b[None])))
    assert (cliff([3, 4], [1, 2]), cliff([1], [1])) == (1.0, 0.0)


def test_wilson_has_a_width_where_all_hit() -> None:
    low, high = wilson([10, 0, 81, 0], [10, 10, 263, 0])
    assert (low[0], high[0]) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert (low[1], high[1]) == (0.0, pytest.approx(0.2775, abs=1e-4))
    # Newcombe 1998, table I: 81 of 263
    assert (low[2], high[2]) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert np.isnan(low[3])


def test_holm_steps_down_and_leaves_out_what_is_unknown() -> None:
    assert holm([0.01, 0.04, 0.03, np.nan, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, np.nan, 0.02], nan_ok=True
    )
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])


def test_kendall_is_the_share_of_pairs_in_order() -> None:
    a, b = np.array([1.0, 2.0, 2.0, 4.0, np.nan]), np.array([2.0, 1.0, 3.0, 3.0, 0.0])
    pairs = list(itertools.combinations(range(4), 2))
    signs = np.sign([[a[i] - a[j], b[i] - b[j]] for i, j in pairs])
    expected = signs.prod(1).sum() / np.sqrt(np.abs(signs).sum(0).prod())
    assert kendall(a, b) == pytest.approx(expected)
    assert (kendall([1, 2, 3], [3, 5, 9]), kendall([1, 2, 3], [9, 5, 3])) == (1.0, -1.0)
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_orders_are_compared_sample_by_sample() -> None:
    values = np.random.default_rng(3).normal(size=(3, 4, 5))
    values[1, 2, 0] = np.nan
    found = kendall_per_sample(values)
    for i, j in itertools.product(range(3), repeat=2):
        each = [kendall(values[i, :, n], values[j, :, n]) for n in range(5)]
        assert found[i, j] == pytest.approx(np.mean(each))


def test_mean_ranks_share_ties() -> None:
    assert mean_ranks([[1.0, 1.0, 3.0], [2.0, 1.0, 3.0]]) == pytest.approx([1.75, 1.25, 3.0])


def test_names_share_a_letter_exactly_if_they_do_not_differ() -> None:
    differ = {frozenset(pair) for pair in ("ac", "ad", "bd", "ae", "be", "ce")}
    found = letters("abcde", differ)
    for pair in itertools.combinations("abcde", 2):
        shared = set(found[pair[0]]) & set(found[pair[1]])
        assert bool(shared) == (frozenset(pair) not in differ)
    assert found["a"] == "a"
    assert letters(["x", "y"], set()) == {"x": "a", "y": "a"}
