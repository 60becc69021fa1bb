"""What the page says is there for programs, and follows the scores that are stored."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import aggregate, comparisons
from pipeline.evaluate import evaluate
from pipeline.report import build, machine
from pipeline.report.sections import disagreement, scores
from pipeline.statistics import paired
from pipeline.store import open_run
from tests.pipeline.explained import explained

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store import Run


def test_what_json_lacks_is_null() -> None:
    values = {"a": math.nan, "b": [np.float64(1.5), np.inf], 3: np.array([1, 2])}
    assert machine._plain(values) == {"a": None, "b": [1.5, None], "3": [1, 2]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a control, judged by metrics that read maps alone."""
    entries: dict[str, dict[str, str]] = {
        name: {} for name in ("gradient", "saliency", "input_x_gradient")
    }
    made = explained(
        tmp_path_factory.mktemp("machine"),
        explainers={**entries, "chance": {"method": "random"}},
        metrics={"sparseness": {}, "complexity": {}},
    )
    evaluate(made)
    return made


@pytest.mark.slow
def test_the_report_for_programs_says_what_the_tables_hold(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.report.discover", list)  # the page itself is tested elsewhere
    described = {"python": "3.11", "packages": {"torch": "2.0"}}
    monkeypatch.setattr(type(run), "environment", property(lambda run: described))
    build(run, tmp_path / "page.html")
    report = json.loads((tmp_path / "page.json").read_text())
    assert (report["format"], report["version"]) == ("xpipe.report", 1)
    assert report["run"]["digest"] == run.plan.digest
    assert report["run"]["n_failed"] == 1
    assert report["run"]["versions"] == {"python": "3.11", "torch": "2.0"}
    assert report["failures"][0]["sample"] == "000005"
    assert report["explainers"]["chance"] == {
        "method": "random",
        "parameters": {},
        "is_control": True,
    }
    rows = pq.read_table(f"{run.path}/aggregates.parquet").to_pylist()
    for row in rows:
        said = report["scores"][row["metric"]][row["explainer"]][row["column"]]
        assert said[row["group"]]["mean"] == pytest.approx(row["mean"], nan_ok=True)
    assert report["metrics"]["sparseness"]["controls"] == ["chance"]
    assert next(each["rank"] for each in report["standings"]["sparseness"]) == 1
    assert len(report["agreement"]["metrics"]) == 2
    assert report["ranks"] == []  # three classes and two metrics are no five blocks


@pytest.mark.slow
def test_comparisons_are_stored_and_read_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pq.read_table(f"{run.path}/comparisons.parquet").to_pylist()
    row = next(
        row
        for row in rows
        if (row["metric"], row["explainer"], row["reference"], row["kind"], row["group"])
        == ("complexity", "gradient", "chance", "control", "all")
    )
    expected = paired(
        run.scores("complexity", "gradient")["complexity"],
        run.scores("complexity", "chance")["complexity"],
    )
    assert (row["n"], row["difference"]) == (10, pytest.approx(expected.difference))
    assert row["p"] == pytest.approx(expected.p)
    assert {row["group"] for row in rows} <= {"all", "correct", "misclassified"}
    written = comparisons.of_run(run)
    monkeypatch.setattr(comparisons, "paired", None)  # nothing is compared again
    assert comparisons.of_run(open_run(run.path)) == written


@pytest.mark.slow
def test_comparisons_of_other_scores_are_not_taken(run: Run) -> None:
    stored, states = comparisons._stored(run)
    assert {row.metric for row in stored} == set(states) == {"sparseness", "complexity"}
    judged = {metric.name: metric for metric in aggregate.judged(run)}
    assert states["sparseness"] == comparisons._state(run, judged["sparseness"])
    withdrawn = run.ledger.entries("evaluate.sparseness")[2]
    run.ledger.withdraw("evaluate.sparseness", 2)
    try:
        assert states["sparseness"] != comparisons._state(run, judged["sparseness"])
        again = {each.metric.name: each for each in comparisons.of_run(run)}
        assert max(row.n for row in again["sparseness"].rows) == 7
        assert max(row.n for row in again["complexity"].rows) == 10
    finally:
        assert run.ledger.commit(withdrawn)


@pytest.mark.slow
def test_the_page_says_what_controls_are_worth(run: Run) -> None:
    html = scores.render(run) or ""
    assert "a control" in html
    lost = [each for each in comparisons.of_run(run) if each.unbeaten]
    assert html.count("no explainer beats") == len({each.unbeaten for each in lost})
    assert "order explainers" in (disagreement.render(run) or "")
