from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.engine import Engine, Outcome, Settings, WorkItem, engines
from pipeline.engine.queue import Queue
from tests.pipeline.toy_tasks import Toy, log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def engine() -> Engine:
    return engines.get("serial")(Settings(threads=1))


def run(engine: Engine, task: Toy, n: int) -> tuple[list[Outcome], list[Outcome]]:
    told: list[Outcome] = []
    items = [WorkItem("explain", shard) for shard in range(n)]
    with engine:
        outcomes = engine.map(task, items, on_outcome=told.append, stop=lambda: False)
    return outcomes, told


@pytest.mark.parametrize("is_background", [False, True])
def test_every_item_is_done_once(engine: Engine, tmp_path: Path, is_background: bool) -> None:
    outcomes, told = run(engine, Toy(str(tmp_path), is_background=is_background), 9)
    assert [outcome.status for outcome in outcomes] == ["committed"] * 9
    assert log(tmp_path, "begun") == list(range(9))
    assert told == outcomes


def test_a_failing_shard_is_quarantined_after_three_attempts(
    engine: Engine, tmp_path: Path
) -> None:
    outcomes, told = run(engine, Toy(str(tmp_path), fail=frozenset({1})), 4)
    assert Counter(outcome.status for outcome in told) == {
        "committed": 3,
        "failed": 2,
        "quarantined": 1,
    }
    (error,) = [outcome.error for outcome in outcomes if outcome.error]
    assert error.type == "ZeroDivisionError"
    assert "toy_tasks.py" in error.traceback
    assert len(outcomes) == 4


def test_a_full_disk_ends_the_mapping_at_once(engine: Engine, tmp_path: Path) -> None:
    outcomes, _ = run(engine, Toy(str(tmp_path), full_disk=frozenset({2})), 9)
    assert [outcome.status for outcome in outcomes] == ["committed", "committed", "failed"]
    assert outcomes[-1].error is not None
    assert outcomes[-1].error.is_fatal


def test_torch_threads_are_set_and_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run(engines.get("serial")(Settings(threads=before + 1)), Toy(str(tmp_path)), 1)
    assert f"done 0 1 {before + 1} " in (tmp_path / "log").read_text()
    assert torch.get_num_threads() == before


def test_stop_ends_before_the_next_item(engine: Engine, tmp_path: Path) -> None:
    told: list[Outcome] = []
    items = [WorkItem("explain", shard) for shard in range(9)]
    outcomes = engine.map(
        Toy(str(tmp_path)), items, on_outcome=told.append, stop=lambda: len(told) == 2
    )
    assert len(outcomes) == 2


@pytest.mark.slow
def test_the_serial_engine_does_not_load_ray() -> None:
    import subprocess
    import sys

    code = "import sys, pipeline.engine as e; e.engines.get('serial'); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_suspect_runs_alone() -> None:
    told: list[Outcome] = []
    items = [WorkItem("explain", shard) for shard in range(3)]
    queue = Queue(items, told.append)
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    queue.lose("worker-0", [first, second], charged=second, reason="killed")
    assert [(outcome.item.shard, outcome.status) for outcome in told] == [(1, "failed")]
    third = queue.take()
    assert third == items[2]
    assert queue.take([third]) is None
    suspect = queue.take()
    assert suspect == first
    assert queue.take([suspect]) is None
    assert queue.take() == WorkItem("explain", 1, attempt=2)
