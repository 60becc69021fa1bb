"""What is said of a column follows from what its metric declares, and not from its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from explainers import Samples, Target
from pipeline import aggregate
from pipeline.metrics import Metric, build, metrics
from pipeline.metrics.again import ExplainingAgain
from pipeline.metrics.graph_faithfulness import _columns
from pipeline.metrics.metric import Case
from tests.pipeline.compared import make, some_maps
from tests.pipeline.test_metrics import batch, small_network
from tests.pipeline.test_metrics_rate_distortion import Rows

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.aggregate import Aggregate

ONES = np.ones(12)
HITS = np.repeat([1.0, 0.0], [9, 3])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Aggregate]:
    root: Path = tmp_path_factory.mktemp("runs") / "run"
    axiom = {"relative_residual": 1 - HITS, "is_complete": HITS, "total": ONES}
    shaken = {"max_sensitivity": ONES, "mean": ONES, "mean_error": 1 - ONES, "maximum.1": ONES}
    scored = {
        "completeness": {"lrp": axiom},
        "max_sensitivity": {"lrp": shaken},
        "pointing_game": {"lrp": {"pointing_game": ONES, "pointing_game.1": 1 - ONES}},
    }
    run = make(root, {"lrp": some_maps(0)}, scored)
    return {(row.metric, row.column, row.group): row for row in aggregate.aggregates(run)}


def test_constant_scores_that_are_no_shares_have_no_shares_intervals(
    rows: dict[tuple[str, str, str], Aggregate],
) -> None:
    for column, mean in (("max_sensitivity", 1.0), ("mean_error", 0.0), ("maximum.1", 1.0)):
        for group in ("all", "macro", "class:0"):
            row = rows["max_sensitivity", column, group]
            assert (row.low, row.mean, row.high) == (mean, mean, mean)
    # zeros and ones by chance: Student's t, which may leave [0, 1]
    row = rows["completeness", "relative_residual", "all"]
    assert row.mean - row.low == pytest.approx(2.201 * row.std / np.sqrt(12), rel=1e-3)


def test_shares_have_intervals_within_0_and_1_of_some_width(
    rows: dict[tuple[str, str, str], Aggregate],
) -> None:
    columns = (("pointing_game", "pointing_game"), ("pointing_game", "pointing_game.1"))
    for metric, column in (*columns, ("completeness", "is_complete")):
        for group in ("all", "macro", "class:0", "class:2"):
            row = rows[metric, column, group]
            assert 0 <= row.low < row.high <= 1
            assert row.low <= row.mean <= row.high


def test_it_is_told_which_end_of_a_column_is_better_where_that_is_known(
    rows: dict[tuple[str, str, str], Aggregate],
) -> None:
    told = {(metric, column): row.direction for (metric, column, _), row in rows.items()}
    assert told == {
        ("completeness", "relative_residual"): "lower",
        ("completeness", "is_complete"): "higher",
        ("completeness", "total"): "",
        ("max_sensitivity", "max_sensitivity"): "lower",
        ("max_sensitivity", "mean"): "lower",
        ("max_sensitivity", "mean_error"): "",
        ("max_sensitivity", "maximum.1"): "lower",
        ("pointing_game", "pointing_game"): "higher",
        ("pointing_game", "pointing_game.1"): "higher",
    }
    areas = {name: build(name, {}) for name in ("road", "rate_distortion_curve")}
    assert areas["road"].direction_of("accuracy_auc", (3, 8, 8)) == "lower"
    assert areas["rate_distortion_curve"].direction_of("accuracy_auc", (3, 8, 8)) == "higher"
    assert areas["rate_distortion_curve"].direction_of("random_auc", (3, 8, 8)) == ""


def columns(metric: Metric) -> set[str]:
    """Return the columns of a metric, scored where that takes no explainer."""
    inputs, relevance, classes = batch(n=2)
    state = dict.fromkeys(("sum", "squares", "greatest"), relevance[:, 0, 0, 0])
    if "graph" in metric.requires:
        return set(_columns(torch.randn(5, 2, 3), classes))
    if "explainer" in metric.requires:
        curve = {**state, "similarity": relevance[:, 0, 0]}
        assert isinstance(metric, ExplainingAgain)
        return set(metric.concluded(Case(None, Target.parse("predicted")), relevance, curve))
    trace: Any = Rows(small_network(), inputs, Samples(torch.arange(2), classes))
    case = Case(trace, Target.parse("predicted"), mask=inputs[:, 0] > 0)
    return set(metric.score(metric.prepare(case), relevance))


def test_what_metrics_declare_of_columns_is_of_columns_that_they_have() -> None:
    declaring = {name for name in metrics.names() if _declared(metrics.get(name))}
    assert declaring >= {"completeness", "graph_faithfulness", "monotonicity", "mprt", "road"}
    for name in sorted(declaring):
        metric = build(name, {})
        assert _declared(type(metric)) <= columns(metric), name
        assert metric.headline not in metric.directions


def _declared(kind: type[Metric]) -> set[str]:
    return {*kind.shares, *kind.directions}
