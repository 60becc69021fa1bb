"""Two runs on the same samples: what has changed is paired by sample, and told from chance."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from pipeline.compare import IncomparableError, agreement, compare, map_drift, score_drift
from pipeline.compare.comparing import _clusters
from pipeline.report.sections import drift as section
from tests.pipeline.compared import N, judged, make, some_maps

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compare import Comparison, ScoreDrift

FEATURES = 12
EVERY = np.ones((5, FEATURES), bool)


def some_rows(seed: int) -> NDArray[np.float64]:
    """Rows with ties: few different values."""
    return np.random.default_rng(seed).integers(-3, 4, (5, FEATURES)).astype(np.float64)


def expected_gain(before: NDArray[np.float64], after: NDArray[np.float64], k: int) -> float:
    """Mean DCG over all orders of `after` in which equal magnitudes are shuffled."""
    magnitude = np.abs(after)
    orders = [
        order
        for order in itertools.permutations(range(len(after)))
        if all(magnitude[a] >= magnitude[b] for a, b in itertools.pairwise(order))
    ]
    gains: list[float] = [
        sum(abs(float(before[f])) / math.log2(place + 2) for place, f in enumerate(order[:k]))
        for order in orders
    ]
    return sum(gains) / len(gains)


def test_the_rank_correlation_is_spearmans() -> None:
    before, after = some_rows(0), some_rows(1)
    expected = [stats.spearmanr(*pair).statistic for pair in zip(before, after, strict=True)]
    # ranks are halves, so only the last division rounds
    np.testing.assert_allclose(
        agreement.rank_correlation(before, after, EVERY), expected, atol=1e-12
    )


def test_features_that_a_sample_lacks_count_for_nothing() -> None:
    before, after = some_rows(0), some_rows(1)
    valid = np.arange(FEATURES) < np.array([FEATURES, 9, 5, 3, 0])[:, None]
    for measure in (agreement.rank_correlation, agreement.ndcg, agreement.moved):
        found = measure(np.where(valid, before, np.nan), np.where(valid, after, 7.0), valid)
        for row, size in enumerate((FEATURES, 9, 5, 3)):
            part = (before[row : row + 1, :size], after[row : row + 1, :size])
            alone = measure(*part, np.ones((1, size), bool))
            np.testing.assert_allclose(found[row], alone[0], atol=1e-12)
        assert np.isnan(found[4])


def test_ndcg_is_the_mean_over_the_orders_of_ties() -> None:
    generator = np.random.default_rng(3)
    before = generator.integers(-2, 3, (4, 6)).astype(np.float64)
    after = generator.integers(-2, 3, (4, 6)).astype(np.float64)
    before[0, :] = [2, 1, 0, 0, -2, 1]
    valid = np.ones((4, 6), bool)
    found = agreement.ndcg(before, after, valid, top=0.5)
    for row in range(4):
        best = expected_gain(before[row], before[row], 3)
        expected = expected_gain(before[row], after[row], 3) / best
        assert found[row] == pytest.approx(expected, abs=1e-12)


def test_maps_without_order_or_number_are_told_apart() -> None:
    ramp = np.arange(4.0)
    before = np.stack([ramp, 0 * ramp, 0 * ramp, ramp, ramp])
    after = np.stack([ramp, 0 * ramp, ramp, 0 * ramp, ramp])
    after[4, 2] = np.nan
    valid = np.ones((5, 4), bool)
    nan = np.nan
    np.testing.assert_array_equal(
        agreement.rank_correlation(before, after, valid), [1, 1, nan, nan, nan]
    )
    # a constant map finds nothing better than by chance: the mean gain at its one place
    np.testing.assert_allclose(
        agreement.ndcg(before, after, valid), [1, 1, nan, ramp.mean() / 3, nan]
    )
    np.testing.assert_array_equal(agreement.moved(before, after, valid), [0, nan, nan, nan, nan])


def test_what_has_moved_is_half_of_what_differs() -> None:
    before, after = np.array([[3.0, -1.0, 0.0]]), np.array([[0.0, 20.0, 20.0]])
    assert agreement.moved(before, after, np.ones((1, 3), bool)) == pytest.approx([0.75])


def scores(seed: int, shift: float = 0.0) -> dict[str, NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return {"sparseness": generator.random(N) + shift}


def of(drift: Comparison, group: str = "all", explainer: str = "lrp") -> ScoreDrift:
    (row,) = (r for r in drift.scores if r.group == group and r.explainer == explainer)
    return row


def test_a_run_has_not_drifted_from_itself(tmp_path: Path) -> None:
    run = make(tmp_path / "a", {"lrp": some_maps(0)}, {"sparseness": {"lrp": scores(0)}})
    drift = compare(run, run)
    assert (of(drift).verdict, of(drift).change, drift.changes) == ("same", 0, ())
    (found,) = drift.maps
    assert (found.n, found.n_identical, found.worst) == (N, N, ())
    assert found.rank_correlation.mean == found.ndcg.mean == 1
    assert found.moved.mean == 0
    assert {each.profile_moved for each in found.classes} == {0}


@pytest.mark.parametrize(
    ("change", "direction", "verdict"),
    [
        (np.full(N, -0.2) + 0.01 * np.arange(N), "higher", "worse"),
        (np.where(np.arange(N) < 9, -0.1, 2.0), "lower", "unclear"),  # the mean is not the majority
        (np.r_[np.full(N - 1, 0.1), -3.0], "higher", "unclear"),  # an outlier turns the mean
    ],
)
def test_a_verdict_agrees_with_its_test_and_with_the_majority(
    change: NDArray[np.float64], direction: str, verdict: str
) -> None:
    metric = judged("sparseness", ("lrp",), {})
    column = score_drift._Column(metric, "lrp", "sparseness", direction)
    before = np.linspace(0, 1, N)
    every = {"all": np.ones(N, bool), "class:1": np.arange(N) % 3 == 1}
    rows = [*column.drift(before, before + change, every, (every["all"], every["all"]))]
    found = score_drift._adjusted(rows)
    assert [row.verdict for row in found] == [verdict, "unknown"]


def test_verdicts_are_of_all_explainers_together() -> None:
    metric = judged("sparseness", ("lrp",), {})
    before, every = np.linspace(0, 1, N), {"all": np.ones(N, bool)}
    change = np.r_[np.full(9, -0.1), 0.05, 0.06, 0.07] + 0.001 * np.arange(N)
    rows = [
        row
        for name in "abcdefghi"
        for row in score_drift._Column(metric, name, "sparseness", "higher").drift(
            before, before + change, every, (every["all"], every["all"])
        )
    ]
    assert rows[0].high < 0
    assert rows[0].p < 0.05 < len(rows) * rows[0].p
    assert {row.verdict for row in score_drift._adjusted(rows)} == {"unclear"}
    assert score_drift._adjusted(rows[:1])[0].verdict == "worse"


def test_samples_are_paired_by_their_ids_whatever_order_and_shards(tmp_path: Path) -> None:
    first, second = some_maps(0), some_maps(1)
    before, after = scores(0)["sparseness"], scores(1)["sparseness"]
    said = [0, 1] * (N // 2)
    old = make(tmp_path / "a", {"lrp": first}, {"sparseness": {"lrp": {"sparseness": before}}})
    new = make(
        tmp_path / "b",
        {"lrp": second},
        {"sparseness": {"lrp": {"sparseness": after}}},
        predictions=said,
        shard_size=5,
    )
    order = np.random.default_rng(2).permutation(N)
    shuffled = make(
        tmp_path / "c",
        {"lrp": second[order]},
        {"sparseness": {"lrp": {"sparseness": after[order]}}},
        ids=order.tolist(),
        predictions=np.asarray(said)[order].tolist(),
        shard_size=7,
    )
    found, again = compare(old, new), compare(old, shuffled)
    assert _alike(found.scores, again.scores)
    assert of(found).change == pytest.approx((after - before).mean())
    test = stats.ttest_rel(after, before).confidence_interval()
    assert (of(found).low, of(found).high) == pytest.approx((test.low, test.high))
    assert of(found).p == pytest.approx(stats.wilcoxon(after, before).pvalue)
    (maps,), (others,) = found.maps, again.maps
    assert [each.sample_id for each in maps.worst] == [each.sample_id for each in others.worst]
    assert maps.rank_correlation.mean == pytest.approx(others.rank_correlation.mean)
    assert found.n_predictions_changed == again.n_predictions_changed > 0
    expected = [
        stats.spearmanr(a.sum(0).ravel(), b.sum(0).ravel()).statistic
        for a, b in zip(first, second, strict=True)
    ]
    assert maps.rank_correlation.mean == pytest.approx(np.mean(expected))
    assert maps.worst[0].sample_id == f"s{np.argmin(expected)}"
    by_class = {each.label: each.rank_correlation for each in maps.classes}
    assert by_class[1] == pytest.approx(np.mean(expected[1::3]))
    assert list(by_class.values()) == sorted(by_class.values())


def _alike(first: tuple[ScoreDrift, ...], second: tuple[ScoreDrift, ...]) -> bool:
    """Whether rows are equal, NaN to NaN, but for the order in which numbers were summed."""
    pairs = zip(first, second, strict=True)
    return all(
        a == b or (a != a and b != b) or a == pytest.approx(b)
        for one, other in pairs
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


@pytest.mark.slow
def test_maps_are_compared_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(tmp_path / "a", {"lrp": some_maps(0)}, shard_size=5)
    new = make(tmp_path / "b", {"lrp": some_maps(1)})
    at_once = flat(asdict(compare(old, new).maps[0]))
    monkeypatch.setattr(map_drift, "VALUES", 1)
    in_pieces = flat(asdict(compare(old, new).maps[0]))
    # sums of profiles are rounded in another order
    assert in_pieces == {name: pytest.approx(value) for name, value in at_once.items()}


def flat(values: Any, name: str = "") -> dict[str, Any]:
    """Return nested values by path."""
    if not isinstance(values, dict | tuple):
        return {name: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    return {k: v for key, value in items for k, v in flat(value, f"{name}.{key}").items()}


@pytest.mark.slow
def test_maps_whose_channels_were_summed_are_compared_with_those_that_keep_them(
    tmp_path: Path,
) -> None:
    kept = some_maps(0)
    old = make(tmp_path / "a", {"lrp": kept})
    new = make(tmp_path / "b", {"lrp": kept.sum(axis=1)}, dtype="float16")
    (found,) = compare(old, new).maps
    # float16 rounds to three digits, which may swap close neighbours and no others
    assert found.rank_correlation.least > 0.99
    assert found.moved.mean < 1e-3


@pytest.mark.slow
def test_a_map_that_is_not_finite_touches_no_other(tmp_path: Path) -> None:
    broken = some_maps(1)
    broken[4, 0, 0, 0] = np.nan
    old = make(tmp_path / "a", {"lrp": some_maps(0)})
    whole, partial = (
        compare(old, make(tmp_path / name, {"lrp": values})).maps[0]
        for name, values in (("b", some_maps(1)), ("c", broken))
    )
    assert (whole.n, partial.n) == (N, N - 1)
    assert [w for w in whole.worst if w.sample_id != "s4"] == list(partial.worst)


@pytest.mark.slow
def test_what_only_one_run_has_is_told(tmp_path: Path) -> None:
    values = some_maps(0)
    old = make(tmp_path / "a", {"lrp": values, "ig": values}, {"sparseness": {"lrp": scores(0)}})
    new = make(tmp_path / "b", {"lrp": values[:, :, :2, :2], "x": values})
    notes = "; ".join(compare(old, new).notes)
    assert "evaluated with there only: sparseness" in notes
    assert "maps of ig are there only" in notes
    assert "maps of x are here only" in notes
    assert "lrp: maps are height 4, width 4 there and height 2, width 2 here" in notes


@pytest.mark.slow
def test_what_was_not_done_is_told(tmp_path: Path) -> None:
    values = {"sparseness": {"lrp": scores(0)}}
    half = make(tmp_path / "a", {"lrp": some_maps(0)}, values, shard_size=2, done=range(4))
    whole = make(tmp_path / "b", {"lrp": some_maps(0)}, values)
    half.ledger.withdraw("explain", 5)
    notes = compare(half, whole).notes
    assert "2 of 12 samples have no maps there" in notes
    assert "4 of 12 samples have no scores of sparseness there (lrp)" in notes
    assert len(notes) == 2


def test_runs_that_mean_other_things_are_refused_and_all_is_named(tmp_path: Path) -> None:
    values = some_maps(0)
    scored = {"pixel_flipping": {"lrp": {"auc": np.ones(N)}}}
    old = make(tmp_path / "a", {"lrp": values}, scored)
    new = make(
        tmp_path / "b",
        {"lrp": values},
        scored,
        ids=[*range(1, N), 77],
        labels=[2, *([0] * (N - 1))],
        targets=("label",),
        parameters={"pixel_flipping": {"n_steps": 3}},
    )
    with pytest.raises(IncomparableError) as caught:
        compare(old, new)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert "1 samples are there and not here: 's0'" in said
    assert "1 samples are here and not there: 's77'" in said
    assert "samples have another label" in said
    assert "targets: ['predicted'] there, ['label'] here" in said
    assert "metric pixel_flipping: parameters.n_steps" in said


@pytest.mark.slow
def test_a_parameter_that_is_newer_than_the_scores_has_its_default(tmp_path: Path) -> None:
    scored = {"pixel_flipping": {"lrp": {"auc": np.ones(N)}}}
    old = make(tmp_path / "a", {"lrp": some_maps(0)}, scored)
    file = tmp_path / "a" / "scores" / "pixel_flipping" / "metric.json"
    file.write_text(file.read_text().replace('"n_steps"', '"forgotten"'))
    # a parameter that is gone is a difference, which the one below it is not
    with pytest.raises(IncomparableError, match="forgotten"):
        compare(old, make(tmp_path / "b", {"lrp": some_maps(0)}, scored))


@pytest.mark.slow
def test_the_section_shows_both_maps_of_the_worst_samples(tmp_path: Path) -> None:
    old = make(tmp_path / "a", {"lrp": some_maps(0)}, {"sparseness": {"lrp": scores(0)}})
    new = make(tmp_path / "b", {"lrp": some_maps(1)}, {"sparseness": {"lrp": scores(0, 0.5)}})
    html = section.render_against(new, (old,))
    assert html is not None
    worst = compare(old, new).maps[0].worst[0].sample_id
    assert f'alt="lrp of {worst} before"' in html
    assert f'alt="lrp of {worst} now"' in html
    assert '<span class="verdict passes">better</span>' in html
    assert section.render_against(new, ()) is None


@pytest.mark.slow
def test_the_section_says_why_a_run_cannot_be_compared(tmp_path: Path) -> None:
    old = make(tmp_path / "a", {"lrp": some_maps(0)}, targets=("label",))
    html = section.render_against(make(tmp_path / "b", {"lrp": some_maps(0)}), (old,))
    assert "targets:" in str(html)


def test_a_clever_hans_that_is_new_is_told() -> None:
    def run(*classes: str) -> Any:
        confirmed = [(SimpleNamespace(name=name), None) for name in classes]
        return SimpleNamespace(spray={"lrp": SimpleNamespace(clever_hans=confirmed)})

    assert list(_clusters(run("class:3"), run("class:3", "class:7", "class:7"))) == [
        "lrp: a Clever Hans is confirmed here in class:7, which was not there"
    ]
    assert list(_clusters(run("class:3"), run())) == []
    nothing: Any = SimpleNamespace(spray={})
    (said,) = _clusters(nothing, run("class:3"))
    assert said.endswith("was not asked for there")
