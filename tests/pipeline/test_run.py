from __future__ import annotations

import json
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipeline import paths
from pipeline.config import load
from pipeline.engine.serial import SerialEngine
from pipeline.errors import ConfigError, PlanError, RunConflictError, StoreError
from pipeline.ledger import Ledger
from pipeline.ownership.lock import owner
from pipeline.run import narrowed, resume, run
from pipeline.runs import repair
from pipeline.sinks.maps import MapSink
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import (
    EXPLAINERS,
    committed,
    config_of,
    events,
    run_in_process,
    run_tiny,
    stored,
    write_run,
)

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from pipeline.events import Event
    from tests.pipeline.drills import Seen

pytestmark = pytest.mark.slow

PASSES = ("explain", "statistics.low_rank")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_tiny(folder).exit_code == 0
    return folder / "out"


def wait_for_commit(path: Path, process: subprocess.Popen[str], n: int = 1) -> None:
    # to import torch alone can take a minute where others work, too
    deadline = time.monotonic() + 200
    while not (path / "events.jsonl").exists() or len(committed(path)) < n:
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"nothing was committed in time: {process.communicate()}")
        time.sleep(0.01)


def written(path: Path) -> dict[str, int]:
    """Return when each object was written; the copy of all metadata is made at every start."""
    names = [name for name in stored(path) if name != "maps.zarr/zarr.json"]
    return {name: (path / name).stat().st_mtime_ns for name in names}


def test_a_run_tells_what_happens_and_what_became_of_it(tmp_path: Path) -> None:
    told: list[Event] = []
    metrics: dict[str, Any] = {"sparseness": {}}
    summary = run(config_of(tmp_path, metrics=metrics), callbacks=(told.append,))
    path = tmp_path / "out"
    assert (summary.path, summary.exit_code, summary.n_samples) == (path, 0, 40)
    assert summary.report is not None
    assert summary.report.stat().st_size > 1000
    kinds = [event["event"] for event in events(path)]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert len(told) == len(kinds)
    assert sorted(committed(path)) == sorted(
        (name, shard) for name in (*PASSES, "evaluate.sparseness") for shard in range(5)
    )
    environment = json.loads((path / "environment.json").read_text())
    assert environment["digests"]["run"] == open_run(str(path)).plan.digest
    assert environment["digests"]["plan"] == paths.Folder(path).digest("plan.json")
    assert {"torch", "scipy", "networkx"} <= environment["packages"].keys()
    assert open_run(str(path)).config.base == tmp_path.resolve()
    final = owner(path)
    assert final is not None
    assert (final.epoch, final.is_released) == (1, True)


def test_the_same_run_again_does_nothing_again(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "out"
    run_tiny(tmp_path)
    before = written(path)
    summary = run_tiny(tmp_path)
    assert summary.exit_code == 0
    assert written(path) == before
    assert len(committed(path)) == 10
    assert stored(path) == stored(undisturbed)
    assert [event["epoch"] for event in events(path, "run_started")] == [1, 2]


def test_shards_in_any_order_give_the_same_bits(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = SerialEngine.map

    def backwards(self: SerialEngine, task: Any, items: Any, **rest: Any) -> Any:
        return forwards(self, task, reversed(list(items)), **rest)

    monkeypatch.setattr(SerialEngine, "map", backwards)
    run_tiny(tmp_path)
    assert [shard for _, shard in committed(tmp_path / "out")][:5] == [4, 3, 2, 1, 0]
    assert stored(tmp_path / "out") == stored(undisturbed)


@pytest.mark.drill(2)
def test_a_killed_driver_is_resumed_and_nothing_is_done_twice(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    run_file = write_run(tmp_path)
    (tmp_path / "slow").write_text("0.02")
    path = tmp_path / "out"
    process = run_in_process(run_file)
    wait_for_commit(path, process, n=2)
    process.kill()
    process.communicate()
    ledger = Ledger(path)
    before = ledger.entries("explain")
    assert 2 <= len(before) < 5
    (tmp_path / "slow").unlink()
    assert resume(path).exit_code == 0
    after = ledger.entries("explain")
    assert {shard: after[shard] for shard in before} == before
    assert [after[shard].epoch for shard in sorted(after)] == [
        1 if shard in before else 2 for shard in range(5)
    ]
    assert stored(path) == stored(undisturbed)
    drill(
        f"exit {process.returncode}, then 0",
        f"{len(before)} shards kept, {5 - len(before)} computed",
    )
    drill.run(path, 0)


@pytest.mark.drill(16)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_the_shards_in_flight(
    tmp_path: Path, undisturbed: Path, number: int, code: int, drill: Seen
) -> None:
    run_file = write_run(tmp_path)
    (tmp_path / "slow").write_text("0.03")
    path = tmp_path / "out"
    process = run_in_process(run_file)
    wait_for_commit(path, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert events(path, "run_finished")[-1]["exit_code"] == code
    assert 1 <= len(committed(path)) < 5
    (tmp_path / "slow").unlink()
    assert resume(path).exit_code == 0
    assert sorted(committed(path)) == sorted((name, shard) for name in PASSES for shard in range(5))
    assert stored(path) == stored(undisturbed)
    drill(signal.Signals(number).name)
    drill.run(path, process.returncode)


@pytest.mark.long
def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    run_file = write_run(tmp_path)
    (tmp_path / "slow").write_text("0.03")
    path = tmp_path / "out"
    process = run_in_process(run_file)
    wait_for_commit(path, process)
    (tmp_path / "slow").write_text("3")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    done = committed(path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    # a sample takes three seconds now, a shard 24: what was in flight is given up
    assert committed(path) == done


@pytest.mark.drill(15)
def test_a_second_run_on_the_folder_of_a_live_one_is_refused(tmp_path: Path, drill: Seen) -> None:
    run_file = write_run(tmp_path)
    (tmp_path / "slow").write_text("0.03")
    process = run_in_process(run_file)
    wait_for_commit(tmp_path / "out", process)
    with pytest.raises(RunConflictError, match=f"process {process.pid}") as caught:
        run(load(run_file))
    assert caught.value.exit_code == 3
    process.kill()
    process.communicate()
    drill(f"exit {caught.value.exit_code}", caught.value.what)


@pytest.mark.drill(10)
def test_another_run_in_the_folder_is_refused_with_every_difference(
    tmp_path: Path, undisturbed: Path, drill: Seen
) -> None:
    path = tmp_path / "out"
    shutil.copytree(undisturbed, path)
    with pytest.raises(RunConflictError) as caught:
        run_tiny(tmp_path, explainers={"saliency": {}, "ig": {"method": "gradient"}}, seed=3)
    message = str(caught.value)
    assert "seed: 0 there, 3 here" in message
    assert "explainers.ig.method: 'integrated_gradients' there, 'gradient' here" in message
    assert "explainers.statistics" in message
    assert stored(path) == stored(undisturbed)
    drill(f"exit {caught.value.exit_code}", message)


def test_an_edited_run_file_in_the_folder_is_refused_with_every_difference(
    tmp_path: Path, undisturbed: Path
) -> None:
    path = tmp_path / "out"
    shutil.copytree(undisturbed, path)
    text = (path / "run.yaml").read_text()
    (path / "run.yaml").write_text(text.replace("n_steps: 4", "n_steps: 5"))
    with pytest.raises(RunConflictError, match=r"explainers\.ig\.n_steps: 4 there, 5 here"):
        resume(path)
    # as folders of before have it
    environment = json.loads((path / "environment.json").read_text())
    del environment["config"]
    (path / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(RunConflictError, match=r"run\.yaml .* was edited"):
        resume(path)


def test_a_damaged_manifest_is_made_anew(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "out"
    shutil.copytree(undisturbed, path)
    sound = (path / "manifest.parquet").read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 255
    for damaged in (b"none", bytes(flipped)):
        (path / "manifest.parquet").write_bytes(damaged)
        assert [problem.object for problem in verify(path)] == ["manifest.parquet"]
        _, summary = repair(path)
        assert summary is not None
        assert summary.exit_code == 0
        assert (path / "manifest.parquet").read_bytes() == sound
        assert verify(path) == []
    assert stored(path) == stored(undisturbed)


@pytest.mark.drill(10)
def test_changed_weights_and_samples_are_refused_by_name(tmp_path: Path, drill: Seen) -> None:
    run_tiny(tmp_path)
    run_file = tmp_path / "run.yaml"
    code = (tmp_path / "tiny.py").read_text()
    (tmp_path / "tiny.py").write_text(code.replace("manual_seed(0)", "manual_seed(5)"))
    with pytest.raises(RunConflictError, match="the weights changed"):
        run(load(run_file))
    (tmp_path / "tiny.py").write_text(code.replace("index % 3", "index % 2"))
    with pytest.raises(RunConflictError, match=r"the samples .* changed") as caught:
        run(load(run_file))
    drill(f"exit {caught.value.exit_code}", caught.value.what)


def test_names_metrics_and_report_may_change(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "out"
    run_tiny(tmp_path)
    summary = run_tiny(tmp_path, name="renamed", report={"samples": 3}, metrics={"sparseness": {}})
    assert summary.exit_code == 0
    assert len([name for name, _ in committed(path) if name == "explain"]) == 5
    assert {name for name, _ in committed(path)} == {*PASSES, "evaluate.sparseness"}
    assert stored(path) == stored(undisturbed)


@pytest.mark.drill(7)
def test_a_full_disk_stops_the_run_and_what_is_there_stays(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    path = tmp_path / "out"
    write = MapSink.write

    def fill_up(self: MapSink, name: str, array: str, shard: Any, values: Any) -> dict[str, str]:
        if shard.index == 2 and name == "saliency":
            raise OSError(28, "No space left on device")
        return write(self, name, array, shard, values)

    with monkeypatch.context() as patched:
        patched.setattr(MapSink, "write", fill_up)
        with pytest.raises(StoreError, match="No space left"):
            run_tiny(tmp_path)
    assert events(path, "run_finished")[-1]["exit_code"] == 1
    assert 2 not in Ledger(path).entries("explain")
    assert owner(path).is_released  # type: ignore[union-attr]
    assert resume(path).exit_code == 0
    assert stored(path) == stored(undisturbed)
    assert len(committed(path)) == len(set(committed(path))) == 10
    drill.run(path, events(path, "run_finished")[0]["exit_code"])


def test_a_lost_object_is_made_again_and_what_builds_on_it(
    tmp_path: Path, undisturbed: Path
) -> None:
    path = tmp_path / "out"
    run_tiny(tmp_path)
    (path / "maps.zarr" / "ig" / "relevance" / "c.3.0.0.0").unlink()
    assert resume(path).exit_code == 0
    assert stored(path) == stored(undisturbed)
    assert committed(path)[10:] == [("explain", 3)]


def test_a_shard_that_recovers_changes_the_statistics(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    write = MapSink.write

    def refuse(self: MapSink, name: str, array: str, shard: Any, values: Any) -> dict[str, str]:
        if shard.index == 1:
            raise RuntimeError("not now")
        return write(self, name, array, shard, values)

    with monkeypatch.context() as patched:
        patched.setattr(MapSink, "write", refuse)
        summary = run_tiny(tmp_path)
    assert summary.exit_code == 5
    assert summary.quarantined == (("explain", 1),)
    assert int(open_run(str(path)).scans["statistics"]["count"]) == 32
    assert resume(path).exit_code == 0
    assert stored(path) == stored(undisturbed)


def test_a_run_can_be_narrowed(tmp_path: Path) -> None:
    run(config_of(tmp_path), only=["saliency"], limit=10)
    opened = open_run(str(tmp_path / "out"))
    assert list(opened.maps) == ["saliency"]
    assert opened.plan.n_samples == 10
    with pytest.raises(ConfigError, match="salience"):
        run(config_of(tmp_path), only=["salience"])


def test_a_narrow_run_has_the_metrics_that_its_explainers_serve(tmp_path: Path) -> None:
    metrics = {
        "sparseness": {},
        "complexity": {"explainers": ["ig", "saliency"]},
        "mprt": {"explainers": ["ig"]},
        "graph_faithfulness": {},
    }
    graphs = {"graph": {"method": "causal_graph"}}
    config = config_of(tmp_path, metrics=metrics, explainers=EXPLAINERS | graphs)
    found = narrowed(config, ["saliency"], None).metrics
    assert found == {"sparseness": {}, "complexity": {"explainers": ["saliency"]}}
    assert set(narrowed(config, ["ig", "graph"], None).metrics) == set(metrics)


def test_what_cannot_run_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = {"lrp": {"composite": "epsilon_plus"}, "saliency": {}}
    config = config_of(tmp_path, explainers=broken, target=7)
    with pytest.raises(PlanError):
        run(config)
    assert not (tmp_path / "out").exists()


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        resume(tmp_path)


def test_a_moved_folder_is_resumed_where_it_is(tmp_path: Path, undisturbed: Path) -> None:
    run_tiny(tmp_path)
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "moved" / "ledger" / "explain" / "0.json").unlink()
    summary = resume(tmp_path / "moved")
    assert summary.path == tmp_path / "moved"
    assert not (tmp_path / "out").exists()
    assert stored(tmp_path / "moved") == stored(undisturbed)


def test_the_run_file_in_the_folder_is_the_run(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    values = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert values["base"] == str(tmp_path.resolve())
    assert load(tmp_path / "out" / "run.yaml").digest() == load(tmp_path / "run.yaml").digest()
