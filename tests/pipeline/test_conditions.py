"""Runs with `concept_relevance`: maps along conditions, tables, refusals when a run is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.errors import XpipeError
from pipeline.planner import make_plan
from pipeline.report.sections import gallery
from pipeline.run import run
from pipeline.store import open_run
from tests.pipeline.explained import FAILED, configure

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SEVERAL: list[dict[str, Any]] = [{"0": [1, 3], "y": 2}, {"0": {"2": [5]}}, {}]
ENTRIES: dict[str, dict[str, Any]] = {
    "lrp": {},
    "one": {"method": "concept_relevance", "conditions": {"0": [1]}, "ranking": "0"},
    "several": {
        "method": "concept_relevance",
        "conditions": SEVERAL,
        "ranking": ["0", "3"],
        "n_ranked": 2,
        "record": "0",
    },
}


def test_a_run_has_a_map_for_each_condition(tmp_path: Path) -> None:
    config = configure(tmp_path, explainers=ENTRIES)
    run(config)
    opened = open_run(config.output.path)
    several, one = opened.maps["several"], opened.maps["one"]
    assert several.dims == ("sample", "condition", "channel", "height", "width")
    assert several.shape == (11, 3, 3, 6, 6)
    assert one.dims == ("sample", "channel", "height", "width")
    good = [row for row in range(11) if row != FAILED]
    lrp = opened.maps["lrp"].values[good]
    np.testing.assert_allclose(several.values[good][:, 2], lrp, rtol=1e-6, atol=1e-8)
    assert np.isnan(several.values[FAILED]).all()
    page = gallery.render(opened)
    assert page is not None
    assert all(f"several [{number}]" in page for number in range(3))
    ranking = opened.table("several.ranking").to_pylist()
    assert {row["condition"] for row in ranking} == {0, 1, 2}
    assert {row["layer"] for row in ranking} == {"0", "3"}
    assert len(ranking) == len(good) * 3 * 2 * 2
    assert "0.relevance_after" in opened.arrays("several")
    kept = opened.array("several", "0.relevance_after")
    assert kept.shape == (11, 3, 4, 4, 4)
    assert set(opened.scores("sparseness", "one")) == {"sparseness"}
    assert not opened.scores("sparseness", "several")


def test_what_a_condition_cannot_name_is_refused_when_a_run_is_planned(tmp_path: Path) -> None:
    for conditions, expected in (
        ({"0": [4]}, "has 4 concepts; choose from 0 to 3"),
        ({"0": {"1": [16]}}, "16 positions"),
        ({"conv": [0]}, "unknown layer 'conv'"),
        ({"y": 3}, "target class 3"),
    ):
        entry = {"method": "concept_relevance", "conditions": conditions}
        config = configure(tmp_path, explainers={"crp": entry}, metrics={})
        with pytest.raises(XpipeError, match=expected) as caught:
            make_plan(config)
        assert "explainers.crp.conditions" in str(caught.value)


def test_the_field_that_is_wrong_is_named(tmp_path: Path) -> None:
    for field, value, place in (
        ("record", "nix", "record: "),
        ("ranking", ["nix"], "ranking.0: "),
        ("composition", {"layer": "0", "width": 4}, "composition.width: "),
        ("composition", {"layer": "0", "widht": [4]}, "composition.widht: "),
        ("composition", {}, "composition: "),
    ):
        entry = {"method": "concept_relevance", "conditions": {"0": [1]}, field: value}
        config = configure(tmp_path, explainers={"crp": entry}, metrics={})
        with pytest.raises(XpipeError) as caught:
            make_plan(config)
        assert f"explainers.crp.{place}" in str(caught.value)
