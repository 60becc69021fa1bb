"""How long a run will take: what is made of the times of rehearsals, and rehearsals for real."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import estimate as benchmark
from pipeline import estimate
from pipeline.estimate import Rehearsal, line
from pipeline.events import ShardCommitted
from tests.pipeline.tiny_run import config_of, write_run

if TYPE_CHECKING:
    from pathlib import Path


def rehearsed(workers: int, *commits: tuple[float, float]) -> Rehearsal:
    """Return what was told by shards of four samples: times of commits, and seconds they took."""
    told = Rehearsal(4 * len(commits), workers)
    told.commits["explain"] = [
        (at, ShardCommitted("explain", shard, 1, 4, 0, seconds, "w", 0))
        for shard, (at, seconds) in enumerate(commits)
    ]
    return told


def test_seconds_of_a_sample_are_by_the_clock_once_workers_are_warm() -> None:
    # two workers, a shard of each in 2 s; the first ones took longer
    told = rehearsed(2, (10, 9), (11, 9), (12, 2), (13, 2), (14, 2), (15, 2))
    assert told.each("explain") == pytest.approx(2 * 4 / 16)
    assert told.work == pytest.approx(26 / 2)
    # no second shard of any worker: what shards took themselves
    assert rehearsed(2, (10, 3), (11, 5)).each("explain") == pytest.approx(1.0)
    assert rehearsed(2).each("explain") == 0


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [
        (None, 1, (8, 8)),
        # a quarter of the samples at most, whoever shares them
        (0.1, 2, (5, 10)),
        # one that is slow has smaller shards, of a sample at least
        (40.0, 1, (2, 2)),
        (4e6, 3, (1, 3)),
    ],
)
def test_first_rehearsals_are_short(
    seconds: float | None, workers: int, expected: tuple[int, int]
) -> None:
    plan: Any = SimpleNamespace(seconds=seconds, n_samples=40, shard_size=8)
    assert estimate.first_sizes(plan, workers) == expected


def test_a_line_through_two_rehearsals_has_nothing_negative() -> None:
    assert line((10, 3.0), (40, 6.0)) == pytest.approx((2.0, 0.1))
    # the clock was disturbed: longer for fewer, and faster than in proportion
    assert line((10, 5.0), (40, 4.0)) == (4.0, 0.0)
    assert line((10, 0.1), (40, 4.0)) == pytest.approx((0.0, 0.1))
    assert line((5, 2.0), (5, 2.5)) == (2.5, 0.0)


def test_workers_are_counted_as_they_compute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "processors", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    counts = {
        n: estimate.n_workers(config_of(tmp_path, engine=engine), 100)
        for n, engine in {
            1: {"kind": "serial", "workers": 4},
            3: {"kind": "ray", "workers": 3},
            4: {"kind": "ray", "workers": "auto", "threads": 2},
            8: {"kind": "ray", "workers": 64},
            64: {"kind": "ray", "workers": 64, "address": "auto"},
        }.items()
    }
    assert all(found == expected for expected, found in counts.items()), counts
    few = config_of(tmp_path, engine={"kind": "ray", "workers": 8})
    assert estimate.n_workers(few, 2) == 2


@pytest.mark.slow
def test_a_measured_plan_foresees_every_part_of_a_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, metrics={"sparseness": {}})
    plan = estimate.measured_plan(config)
    found = plan.estimate
    passes = {"explain", "evaluate.sparseness", estimate.REST}
    assert passes < found.keys()
    parts = {name for name in found if name not in ("total", "workers", "worker_hours")}
    assert found["total"] == pytest.approx(sum(found[name] for name in parts))
    assert found["workers"] == 1
    assert type(plan).from_json(plan.to_json()) == plan
    assert "1 worker," in estimate.in_words(found)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_benchmark_compares_every_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run(tmp_path, metrics={"sparseness": {}})
    benchmark.main([str(file), "--times", "1"])
    rows = [re.split(r"  +", text) for text in capsys.readouterr().out.splitlines()]
    parts = [row[0] for row in rows]
    for part in ("planning", "start, explain", "evaluate.sparseness", estimate.REST, "total"):
        assert part in parts
    assert parts[-1] == benchmark.MEASURING


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.long
def test_rehearsals_on_ray_are_of_its_workers(tmp_path: Path) -> None:
    config = config_of(tmp_path, engine={"kind": "ray", "workers": 2})
    found = estimate.measured_plan(config).estimate
    assert found["start"] > 0
    assert found["workers"] == estimate.n_workers(config, 5)
    assert found["explain"] > 0
    assert found["total"] < 600
