"""Explainers are told apart where samples tell them apart, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline import comparisons
from pipeline.aggregate import Judged
from pipeline.comparisons import compare
from pipeline.statistics import holm, wilcoxon

if TYPE_CHECKING:
    from numpy.typing import NDArray


def judged(**changes: Any) -> Judged:
    fields: dict[str, Any] = {
        "name": "flipping",
        "method": "pixel_flipping",
        "parameters": {},
        "direction": "lower",
        "space": "probability",
        "headline": "auc",
        "explainers": ("lrp", "gradient", "random", "sobel"),
        "digest": "0",
    }
    return Judged(**{**fields, **changes})


@pytest.fixture(scope="module")
def scores() -> dict[str, NDArray[np.float64]]:
    """Sixty samples that differ much, lrp and gradient alike, random worse on each."""
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 5, 60)
    noise = rng.normal(0, 0.1, (4, 60))
    offsets = np.array([[0.0], [0.005], [1.0], [0.2]])
    values = hardness + offsets + noise
    values[1, 0] = np.nan
    return dict(zip(("lrp", "gradient", "random", "sobel"), values, strict=True))


def everything(n: int = 60) -> dict[str, NDArray[np.int64]]:
    half = np.arange(n) % 2 == 0
    return {
        "all": np.arange(n),
        "correct": np.flatnonzero(half),
        "misclassified": np.flatnonzero(~half),
    }


def test_pairs_of_samples_tell_apart_what_means_cannot(
    scores: dict[str, NDArray[np.float64]],
) -> None:
    found = compare(judged(), scores, everything(), ("random", "sobel"))
    standings = {each.explainer: each for each in found.standings}
    # intervals of the means, which samples spread, overlap widely
    assert np.std(scores["lrp"]) > 4
    lrp, random = standings["lrp"], standings["random"]
    assert (lrp.against["random"].verdict, lrp.against["sobel"].verdict) == ("better", "better")
    assert set(lrp.letters) & set(standings["gradient"].letters)
    assert not set(lrp.letters) & set(random.letters)
    assert (random.rank, random.against) == (4, {})
    assert found.standings[0].to_best is None
    assert random.to_best is not None
    assert random.to_best.difference == pytest.approx(1.0, abs=0.1)
    assert found.unbeaten == ()


def test_corrections_span_the_explainers_of_one_reference(
    scores: dict[str, NDArray[np.float64]],
) -> None:
    found = compare(judged(), scores, everything(), ("random", "sobel"))
    for group, rows in everything().items():
        family = [
            row
            for row in found.rows
            if (row.kind, row.group, row.reference) == ("control", group, "sobel")
        ]
        assert [row.explainer for row in family] == sorted(
            ("lrp", "gradient"), key=lambda name: np.nanmean(scores[name][rows])
        )
        p = [wilcoxon((scores[row.explainer] - scores["sobel"])[rows]) for row in family]
        assert [row.p for row in family] == pytest.approx(p)
        assert [row.p_holm for row in family] == pytest.approx(holm(p))
    pairs = [row for row in found.rows if row.kind == "pair"]
    assert len(pairs) == 6
    assert {row.group for row in pairs} == {"all"}
    assert all(row.difference <= 0 for row in pairs)  # the better first, and lower is better


def test_pairs_are_the_samples_that_both_have_scores_of(
    scores: dict[str, NDArray[np.float64]],
) -> None:
    found = compare(judged(), scores, everything(), ("random",))
    row = next(row for row in found.rows if {row.explainer, row.reference} == {"lrp", "gradient"})
    assert row.n == 59


def test_a_metric_that_prefers_controls_is_flagged(scores: dict[str, NDArray[np.float64]]) -> None:
    found = compare(judged(direction="higher"), scores, everything(), ("random", "sobel"))
    assert found.unbeaten == ("random", "sobel")
    assert found.standings[0].explainer == "random"
    lrp = next(each for each in found.standings if each.explainer == "lrp")
    assert lrp.against["random"].verdict == "worse"


def test_metrics_that_no_explainer_wins_are_named(scores: dict[str, NDArray[np.float64]]) -> None:
    lost = compare(judged(direction="higher"), scores, everything(), ("random", "sobel")).rows
    won = compare(judged(name="other"), scores, everything(), ("random", "sobel")).rows
    assert comparisons.unbeaten((*lost, *won)) == {"flipping": ("random", "sobel")}


def test_a_mean_that_few_samples_make_is_no_verdict() -> None:
    rng = np.random.default_rng(1)
    plain = rng.normal(size=40)
    # lower at 34 samples by a little, higher at six by much
    other = plain - 0.1 * (1 + rng.random(40)) + 10.0 * (np.arange(40) < 6)
    found = compare(judged(), {"lrp": plain, "gradient": other}, everything(40))
    row = next(row for row in found.rows if row.kind == "pair")
    assert (row.p < 0.05, row.difference < 0, row.verdict) == (True, True, "undecided")


def test_explainers_without_scores_are_left_out() -> None:
    scores = {"lrp": np.arange(6.0), "gradient": np.full(6, np.nan)}
    found = compare(judged(), scores, everything(6))
    assert (found.rows, len(found.standings)) == ((), 1)
    assert (found.standings[0].rank, found.standings[0].letters) == (1, "a")


def test_the_best_is_first_whichever_end_is_better() -> None:
    means = {"a": 2.0, "b": float("nan"), "c": 1.0}
    assert comparisons.ranked(means, "lower") == ["c", "a"]
    assert comparisons.ranked(means, "higher") == ["a", "c"]
