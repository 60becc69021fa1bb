from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from pipeline import open_run, paths
from pipeline.errors import IntegrityError, RunConflictError, StoreError
from pipeline.ledger import Ledger
from pipeline.sinks import maps, results
from pipeline.verify import Problem, verify
from tests.pipeline import stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _a_disk_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is tested in test_paths; here it would only take time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    stored.make_run(str(tmp_path), late=(0, 1, 2), evaluated=(0, 1, 2))
    for derived in ("report.html", "aggregates.parquet"):
        (tmp_path / derived).write_bytes(b"derived")
    return tmp_path


def _flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def _recompute(run: Path) -> list[tuple[str, int]]:
    """Do what is not in the ledger, as resuming does, and return which shards these were."""
    sink = maps.MapSink(run)
    plan = stored.make_plan()
    layouts = {name: maps.Layout(stored.DIMS, stored.SHAPE) for name in ("lrp", "ig", "rde")}
    sink.create({**layouts, "ig/convergence_delta": maps.Layout()}, 10, 4)
    todo = [
        (name, shard.index)
        for name in ("explain", "explain.statistics", "evaluate.flipping")
        for shard in plan.shards
        if shard.index not in Ledger(run).entries(name)
    ]
    for name, index in todo:
        shard = plan.shards[index]
        if name == "explain":
            stored.explain(str(run), sink, shard)
        elif name == "evaluate.flipping":
            stored.evaluate(str(run), shard)
        else:
            objects = sink.write("rde", "relevance", shard, stored.relevance("rde")[shard.rows])
            stored.commit(str(run), name, shard, objects)
    return todo


def _contents(run: Path) -> dict[str, bytes]:
    folder = paths.Folder(run)
    return {name: folder.read(name) for name in folder.files()}


def test_a_sound_run_has_no_problems(run: Path) -> None:
    before = _contents(run)
    assert verify(run) == []
    assert verify(run, repair=True) == []
    assert _contents(run) == before


def test_a_sound_run_elsewhere_has_no_problems(tmp_path: Path) -> None:
    root = f"memory://{tmp_path.name}/run"
    stored.make_run(root)
    assert verify(root) == []
    folder = paths.Folder(root)
    folder.write("maps.zarr/lrp/relevance/c.1.0.0.0", b"damaged")
    assert [problem.kind for problem in verify(root, repair=True)] == ["damaged"]
    assert list(Ledger(root).entries("explain")) == [0, 2]


def test_a_flipped_byte_in_a_map_is_named_and_only_its_shard_computed_again(run: Path) -> None:
    before = _contents(run)
    _flip(run / "maps.zarr/lrp/relevance/c.1.0.0.0", 100)
    (problem,) = verify(run, repair=True)
    assert (problem.pass_name, problem.shard) == ("explain", 1)
    assert problem.object == "maps.zarr/lrp/relevance/c.1.0.0.0"
    assert problem.kind == "damaged"
    assert str(problem).startswith("damaged: maps.zarr/lrp/relevance/c.1.0.0.0 (pass explain, sha")
    assert not (run / "report.html").exists()
    assert not (run / "aggregates.parquet").exists()
    assert not results.exists(run, "statistics")
    assert np.isnan(open_run(run).maps["lrp"][4:8]).all()
    assert _recompute(run) == [("explain", 1), ("evaluate.flipping", 1)]
    results.write(run, "statistics", _statistics())
    assert verify(run) == []
    after = _contents(run)
    assert {name: before[name] for name in after} == after


def _statistics() -> dict[str, object]:
    return {"mean": np.arange(3, dtype=np.float32)}


def _vouched(run: Path) -> Iterator[tuple[str, int, str]]:
    for name in Ledger(run).passes():
        for shard, entry in Ledger(run).entries(name).items():
            for path in entry.objects:
                yield name, shard, path


@pytest.mark.slow
def test_random_flips_are_all_found(run: Path) -> None:
    generator = np.random.default_rng(0)
    files = sorted({path for _, _, path in _vouched(run)})
    for _ in range(40):
        name = files[generator.integers(len(files))]
        path = run / name
        position, bit = int(generator.integers(path.stat().st_size)), int(generator.integers(8))
        _flip(path, position, bit)
        assert name in {problem.object for problem in verify(run)}
        _flip(path, position, bit)
    assert verify(run) == []


def test_many_flips_at_once_are_all_repaired(run: Path) -> None:
    before = _contents(run)
    generator = np.random.default_rng(0)
    for name in sorted({path for _, shard, path in _vouched(run) if shard == 1}):
        _flip(run / name, int(generator.integers((run / name).stat().st_size)))
    verify(run, repair=True)
    assert {shard for _, shard in _recompute(run)} == {1}
    results.write(run, "statistics", _statistics())
    assert verify(run) == []
    after = _contents(run)
    assert {name: before[name] for name in after} == after


def test_a_missing_object_is_found(run: Path) -> None:
    (run / "states/statistics/all/2.safetensors").unlink()
    (problem,) = verify(run)
    assert (problem.kind, problem.pass_name, problem.shard) == ("missing", "explain", 2)
    assert list(Ledger(run).entries("explain")) == [0, 1, 2]
    verify(run, repair=True)
    assert _recompute(run) == [("explain", 2), ("evaluate.flipping", 2)]


def test_damaged_scores_cost_only_scores(run: Path) -> None:
    _flip(run / "scores/flipping/lrp/0.parquet", 50)
    (problem,) = verify(run, repair=True)
    assert (problem.pass_name, problem.shard) == ("evaluate.flipping", 0)
    assert results.exists(run, "statistics")
    assert _recompute(run) == [("evaluate.flipping", 0)]


def test_a_damaged_record_is_withdrawn(run: Path) -> None:
    _flip(run / "ledger/explain/1.json", 10)
    (problem,) = [each for each in verify(run, repair=True) if not each.is_note]
    assert (problem.kind, problem.object) == ("damaged", "ledger/explain/1.json")
    assert not results.exists(run, "statistics")
    assert _recompute(run)[0] == ("explain", 1)


def test_a_stale_record_is_withdrawn(run: Path) -> None:
    plan = stored.make_plan()
    Ledger(run).withdraw("explain", 1)
    stored.commit(str(run), "explain", plan.shards[1], {}, digest="older")
    found = [each for each in verify(run, repair=True) if not each.is_note]
    assert [problem.kind for problem in found] == ["stale"]
    assert "older" in found[0].detail
    assert 1 not in Ledger(run).entries("explain")


def test_scores_are_stale_by_what_is_said_of_their_metric(run: Path) -> None:
    judged = run / "scores/flipping/metric.json"
    judged.write_text(json.dumps({"digest": "e" * 64}))
    assert verify(run) == []
    judged.write_text(json.dumps({"digest": "f" * 64}))
    assert {problem.kind for problem in verify(run) if not problem.is_note} == {"stale"}


def test_what_nobody_vouches_for_is_a_note(run: Path) -> None:
    Ledger(run).withdraw("explain.statistics", 1)
    (run / "samples/explain/9.parquet").write_bytes(b"orphan")
    left = run / "maps.zarr/lrp/relevance/.c.1.0.0.0.77.tmp"
    left.write_bytes(b"half")
    found = verify(run, repair=True)
    assert {problem.object for problem in found} == {
        "maps.zarr/rde/relevance/c.1.0.0.0",
        "maps.zarr/lrp/relevance/.c.1.0.0.0.77.tmp",
        "samples/explain/9.parquet",
    }
    assert all(problem.is_note and problem.kind == "orphan" for problem in found)
    assert not left.exists()
    assert len(verify(run)) == 2
    assert (run / "report.html").exists()


def test_a_damaged_result_is_made_again_without_shards(run: Path) -> None:
    _flip(run / "scans/statistics.zarr/mean/c.0", 5)
    (problem,) = verify(run, repair=True)
    assert problem.object == "scans/statistics.zarr/mean/c.0"
    assert not results.exists(run, "statistics")
    assert _recompute(run) == []
    assert verify(run) == []


def test_a_damaged_record_of_a_result_is_found(run: Path) -> None:
    (run / "scans/statistics.json").write_text("{}")
    (problem,) = [each for each in verify(run, repair=True) if not each.is_note]
    assert problem.object == "scans/statistics.json"
    assert not results.exists(run, "statistics")


def test_a_damaged_manifest_is_found(run: Path) -> None:
    (run / "manifest.parquet").write_bytes(b"none")
    assert [problem.object for problem in verify(run)] == ["manifest.parquet"]


def _state_digests(run: Path, digests: dict[str, str]) -> None:
    (run / "environment.json").write_text(json.dumps({"digests": digests}))


def test_documents_are_compared_with_the_digests_they_have_of_each_other(run: Path) -> None:
    plan = stored.make_plan()
    (run / "run.yaml").write_text(stored.RUN_FILE)
    config = open_run(run).config.digest()
    _state_digests(run, {"run": plan.digest, "manifest": plan.manifest_digest, "config": config})
    assert verify(run, repair=True) == []
    (run / "run.yaml").write_text(stored.RUN_FILE.replace("mnist5k", "other"))
    assert [problem.object for problem in verify(run)] == ["run.yaml"]
    (run / "run.yaml").write_text("nothing: [")
    assert [problem.object for problem in verify(run)] == ["run.yaml"]
    (run / "environment.json").write_text("nothing")
    assert [problem.object for problem in verify(run)] == ["environment.json"]


def test_records_are_not_withdrawn_because_the_plan_is_damaged(run: Path) -> None:
    plan = stored.make_plan()
    _state_digests(run, {"run": plan.digest})
    text = (run / "plan.json").read_text()
    (run / "plan.json").write_text(text.replace(plan.digest, "c" + plan.digest[1:]))
    before = _contents(run)
    assert "plan.json" in {problem.object for problem in verify(run)}
    with pytest.raises(IntegrityError, match="disagree"):
        verify(run, repair=True)
    assert _contents(run) == before


def _state_all_digests(run: Path) -> None:
    """Write the run file, and the digests that a run states when it begins."""
    plan = stored.make_plan()
    (run / "run.yaml").write_text(stored.RUN_FILE)
    config = open_run(run).config
    digests = {
        "run": plan.digest,
        "plan": paths.Folder(run).digest("plan.json"),
        "manifest": plan.manifest_digest,
        "config": config.digest(),
    }
    stated = {"digests": digests, "config": config.canonical()}
    (run / "environment.json").write_text(json.dumps(stated))


@pytest.mark.parametrize("field", ["shard_size", "batch_size", "n_classes"])
def test_every_change_of_the_plan_is_found(run: Path, field: str) -> None:
    _state_all_digests(run)
    assert verify(run) == []
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {field: plan[field] + 1}, indent=2) + "\n")
    before = _contents(run)
    assert ("plan.json", "damaged") in {(each.object, each.kind) for each in verify(run)}
    with pytest.raises(IntegrityError, match="disagree"):
        verify(run, repair=True)
    assert _contents(run) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "run.yaml",
            stored.RUN_FILE.replace("lrp: {}", "lrp: {epsilon: 0.5}"),
            r"explainers\.lrp\.epsilon: not given there, 0\.5 here",
        ),
        ("run.yaml", "nothing: [", r"run\.yaml"),
        ("environment.json", "nothing", r"environment\.json"),
    ],
)
def test_nothing_is_removed_by_a_run_file_that_is_not_the_runs(
    run: Path, name: str, text: str, message: str
) -> None:
    _state_all_digests(run)
    (run / name).write_text(text)
    _flip(run / "maps.zarr/lrp/relevance/c.1.0.0.0", 100)
    before = _contents(run)
    with pytest.raises(IntegrityError, match=message) as caught:
        verify(run, repair=True)
    assert caught.value.fix
    assert _contents(run) == before


DOCUMENTS = [
    "maps.zarr/zarr.json",
    "maps.zarr/lrp/zarr.json",
    "maps.zarr/lrp/relevance/zarr.json",
    "maps.zarr/target/zarr.json",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flipped_byte_of_metadata_is_found_and_mended_without_computing(
    run: Path, name: str
) -> None:
    before = _contents(run)
    size = len(before[name])
    for position in range(0, size, max(1, size // 12)):
        _flip(run / name, position)
        found = [problem for problem in verify(run, repair=True) if not problem.is_note]
        assert name in {problem.object for problem in found}
        assert verify(run) == []
        assert _recompute(run) == []
        after = _contents(run)
        assert {path: before[path] for path in after} == after


def test_metadata_damaged_in_both_places_costs_its_shards(run: Path) -> None:
    _flip(run / "maps.zarr/lrp/relevance/zarr.json", 0)
    (run / "maps.zarr/zarr.json").write_text("no json")
    verify(run, repair=True)
    assert {name for name, _ in _recompute(run)} == {"explain", "evaluate.flipping"}
    assert [problem for problem in verify(run) if not problem.is_note] == []
    np.testing.assert_array_equal(open_run(run).maps["lrp"], stored.relevance("lrp"))


def test_a_run_in_progress_is_not_repaired(run: Path) -> None:
    owner = {
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "host": socket.gethostname(),
        "epoch": 1,
    }
    (run / "owner.json").write_text(json.dumps(owner))
    assert verify(run) == []
    with pytest.raises(RunConflictError, match="works on"):
        verify(run, repair=True)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        verify(tmp_path)


def test_what_matters_comes_first() -> None:
    note = Problem(True, "", -1, "a", "orphan", "")
    assert sorted([note, Problem(False, "z", 3, "z", "damaged", "")])[1] is note
