"""What scans find on two samples stands for what they will find on all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from explainers.base import Round
from explainers.scan.moments import Moments
from pipeline.planner import make_plan
from pipeline.planning.trial import Trial, results
from tests.pipeline.tiny_run import config_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("n_samples", "rank"), [(1, 1), (2, 1), (5, 4), (100, 8)])
def test_a_covariance_has_as_many_directions_as_all_samples_may_have(
    n_samples: int, rank: int
) -> None:
    one = torch.ones(8, 1, dtype=torch.float64)
    result = {"mean": torch.zeros(8), "covariance": one @ one.T}
    found = results({"statistics": Trial(Moments(), result=result)}, n_samples)["statistics"]
    assert int(torch.linalg.matrix_rank(found["covariance"])) == rank
    assert found["mean"] is result["mean"]


def test_what_a_scan_has_not_found_is_no_result() -> None:
    assert results({"statistics": Trial(Moments())}, 5) == {}


def test_rounds_that_follow_are_told_once() -> None:
    scan, some = Moments(), torch.arange(2)
    rounds = {name: Round(name, scan, some) for name in ("level_0", "level_1", "graph")}
    trial = Trial(scan, rounds={"samples": Round("samples", scan), **rounds})
    said = trial.note("graph", 800)
    assert "level_0, level_1, graph, which read some of the 800 samples" in said
    assert said.count("800") == 1
    assert "if there are any" in Trial(scan).note("graph", 800)


@pytest.mark.slow
def test_a_plan_counts_a_map_for_each_direction_of_the_covariance(tmp_path: Path) -> None:
    entries: dict[str, dict[str, Any]] = {
        mode: {"method": "rate_distortion", "mode": mode, "noise": "statistics", "n_steps": 6}
        for mode in ("full", "half")
    }
    entries["statistics"] = {"method": "moments", "covariance": "exact"}
    plan = make_plan(config_of(tmp_path, explainers=entries)).plan
    # of forty images of 64 pixels
    assert [plan.costs[name]["backward"] for name in ("full", "half")] == [6 * (1 + 39)] * 2
