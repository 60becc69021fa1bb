"""Outliers: the worst by each metric's own direction, few enough for one page."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import aggregate
from pipeline.aggregate import Judged
from pipeline.report import naming, pictures, words
from pipeline.report.sections import gallery, outliers
from tests.pipeline.test_report import Checker

NAN = float("nan")
SCORES = {
    "a": np.array([0.1, NAN, 0.9, 0.5, 0.9, np.inf]),
    "b": np.array([0.3, 0.2, 0.1, NAN, 0.4, 0.0]),
    "noise": np.ones(6),
    "graph": np.ones(6),
}
CURVES = np.linspace(0, 1, 24).reshape(6, 4)


def judged(direction: Any = "lower") -> Judged:
    return Judged("<m>", "pixel_flipping", {}, direction, "none", "auc", tuple(SCORES), "")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    facts = {
        "index": list(range(6)),
        "sample_id": [f"<{index}>" for index in range(6)],
        "label": [0, 0, 0, 0, 0, 0],
        "prediction": [0, 0, 1, 0, 0, 0],
        "status": [""] * 6,
    }
    monkeypatch.setattr(aggregate, "judged", lambda run: [judged()])
    monkeypatch.setattr(aggregate, "facts", lambda run: facts)
    monkeypatch.setattr(naming, "class_names", lambda run: lambda index: f"class {index}")
    monkeypatch.setattr(gallery, "inputs_of", lambda run, rows: {0: np.full((1, 4, 4), 0.5)})
    monkeypatch.setattr(
        gallery, "maps_of", lambda run, name, rows: [np.full((1, 4, 4), row) for row in rows]
    )
    monkeypatch.setattr(words, "of_samples", lambda run, rows: {})
    entries = {"noise": {"method": "random"}}
    return SimpleNamespace(
        maps=dict.fromkeys(("a", "b", "noise")),
        config=SimpleNamespace(explainers=entries),
        plan=SimpleNamespace(targets=("predicted",)),
        scores=lambda metric, name: {"auc": SCORES[name], "curve": CURVES},
    )


@pytest.mark.parametrize(
    ("direction", "rows"),
    [("lower", [("a", 2), ("a", 4), ("b", 4), ("b", 0)]), ("higher", None)],
)
def test_the_worst_are_those_at_the_other_end_of_what_is_better(
    run: Any, direction: str, rows: Any
) -> None:
    found = outliers.worst(run, judged(direction), 4)
    rows = rows or [("a", 0), ("a", 3), ("b", 5), ("b", 2)]
    assert [(place.explainer, place.row) for place in found] == rows


def test_controls_graphs_and_what_is_not_finite_are_left_out(run: Any) -> None:
    found = outliers.worst(run, judged(), 100)
    assert {place.explainer for place in found} == {"a", "b"}
    assert all(np.isfinite(place.score) for place in found)


def test_each_is_shown_with_input_map_curve_score_and_name(run: Any) -> None:
    html = outliers.render(run) or ""
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    shown = html.split('<div class="shown ')[1:]
    assert len(shown) == 4 + 5  # of ten each, those that have a score
    assert "&lt;2&gt;" in shown[0]
    assert shown[0].startswith("wrong")
    assert "class 1, is" in shown[0]
    assert "0.900" in shown[0]
    assert 'aria-label="curve from 0.348 to 0.478"' in shown[0]
    pictures_of = re.findall(r'<img src="data:image/png[^"]*"\s*alt="([^"]*)"', html)
    assert len(pictures_of) >= 9
    assert all(pictures_of)


def test_pictures_are_bounded_however_many_metrics_there_are(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    sides: list[int] = []
    heat_map = pictures.heat_map

    def noted(values: Any, side: int, **how: Any) -> Any:
        sides.append(side)
        return heat_map(values, side, **how)

    def worst(run: Any, metric: Judged, n: int) -> list[outliers.Place]:
        asked.append(n)
        return [outliers.Place(metric, "a", row, 1.0, None) for row in (0, 2)]

    monkeypatch.setattr(aggregate, "judged", lambda run: [judged() for _ in range(60)])
    monkeypatch.setattr(outliers, "worst", worst)
    monkeypatch.setattr(pictures, "heat_map", noted)
    monkeypatch.setattr(outliers, "BUDGET", 2 * 120 * 30**2)
    assert outliers.render(run)
    assert set(asked) == {outliers.MOST // 60}
    assert sides == [30, 30]  # each map is read and drawn once


def test_without_scores_of_maps_there_is_no_section(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate, "judged", lambda run: [])
    assert outliers.render(run) is None
