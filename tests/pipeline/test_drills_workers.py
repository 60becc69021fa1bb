"""Real workers, really killed; compared bit by bit with a run that nobody disturbed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipeline.ledger import Ledger
from pipeline.run import resume
from pipeline.store import open_run
from tests.pipeline.tiny_run import (
    committed,
    events,
    run_in_process,
    run_tiny,
    stored,
    write_run,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.drills import Seen

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY: dict[str, Any] = {"kind": "ray"}
ALL = sorted((name, shard) for name in ("explain", "statistics.low_rank") for shard in range(5))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_tiny(folder).exit_code == 0
    return folder / "out"


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_bits_of_the_serial_engine(
    tmp_path: Path, undisturbed: Path, workers: int
) -> None:
    assert run_tiny(tmp_path, engine={**RAY, "workers": workers}).exit_code == 0
    assert stored(tmp_path / "out") == stored(undisturbed)
    names = {event["worker"] for event in events(tmp_path / "out", "shard_committed")}
    assert len(names) == workers


@pytest.mark.drill(1)
def test_a_killed_actor_costs_one_attempt_of_one_shard(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    run_file = write_run(tmp_path, engine=RAY)
    (tmp_path / "kill_13").write_text("once")
    process = run_in_process(run_file)
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert out == ""
    path = tmp_path / "out"
    assert stored(path) == stored(undisturbed)
    # what the actor committed and did not live to tell is found done by another
    found = [(event["pass_name"], event["shard"]) for event in events(path, "shard_skipped")]
    assert sorted(committed(path) + found) == ALL
    attempts = {entry.shard: entry.attempt for entry in Ledger(path).entries("explain").values()}
    assert attempts == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1}
    assert [event["shard"] for event in events(path, "worker_lost")] == [1]
    drill.run(path, process.returncode)
    drill(f"attempts of shards: {attempts}")


@pytest.mark.drill(3)
def test_a_poison_shard_is_given_up_and_the_rest_is_there(tmp_path: Path, drill: Seen) -> None:
    run_file = write_run(tmp_path, engine=RAY, explainers={"saliency": {}})
    (tmp_path / "kill_20").write_text("always")
    process = run_in_process(run_file)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 5, error
    path = tmp_path / "out"
    drill.run(path, process.returncode)
    assert events(path, "run_finished")[-1]["quarantined"] == [["explain", 2]]
    assert len(events(path, "worker_lost")) == 3
    attempts = {entry.shard: entry.attempt for entry in Ledger(path).entries("explain").values()}
    assert attempts == dict.fromkeys((0, 1, 3, 4), 1)
    (tmp_path / "kill_20").unlink()
    assert resume(path).exit_code == 0
    assert len(Ledger(path).entries("explain")) == 5


@pytest.mark.drill(2)
def test_a_killed_driver_is_resumed_while_orphans_may_live(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    run_file = write_run(tmp_path, engine=RAY)
    (tmp_path / "slow").write_text("0.02")
    path = tmp_path / "out"
    process = run_in_process(run_file)
    deadline = time.monotonic() + 100
    while not (path / "events.jsonl").exists() or len(committed(path)) < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    actors = [child for child in children if "ray::Host" in " ".join(child.cmdline())]
    assert actors
    process.kill()
    process.communicate()
    before = Ledger(path).entries("explain")
    assert len(before) < 5
    (tmp_path / "slow").unlink()
    assert resume(path).exit_code == 0
    after = Ledger(path).entries("explain")
    assert {shard: after[shard] for shard in before} == before
    assert sorted(after) == list(range(5))
    assert stored(path) == stored(undisturbed)
    assert open_run(str(path)).failures() == []
    # Ray's own agents take up to a minute to notice
    _, alive = psutil.wait_procs(actors, timeout=20)
    assert alive == []
    drill(f"{len(before)} shards kept, {len(after) - len(before)} computed")
    drill(f"{len(actors)} workers outlived the driver, {len(alive)} still live")
    drill.run(path, 0)
