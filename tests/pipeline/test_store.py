from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline import open_run, paths
from pipeline.errors import IntegrityError, StoreError
from pipeline.ledger import Ledger
from pipeline.shards import Shard
from pipeline.sinks import maps, scores
from tests.pipeline import stored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _a_disk_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is tested in test_paths; here it would only take time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}/run"


def test_maps_are_read_by_sample(root: str) -> None:
    stored.make_run(root)
    run = open_run(root)
    assert set(run.maps) == {"lrp", "ig", "rde"}
    lrp = run.maps["lrp"]
    assert lrp.dims == ("sample", *stored.DIMS)
    assert lrp.name == "lrp"
    np.testing.assert_array_equal(lrp.sel(sample=7), stored.relevance("lrp")[7])
    np.testing.assert_array_equal(lrp.prediction, np.arange(10) % 3)
    delta = run.array("ig", "convergence_delta")
    np.testing.assert_array_equal(delta, (np.arange(10) / 100).astype(np.float32))
    assert run.arrays("ig") == ("convergence_delta", "relevance")


INDICES = [
    (slice(None),),
    (3,),
    (slice(2, 9, 3),),
    (slice(None, None, -1), 0),
    ([7, 1, 1, 4],),
    ([0, 9], slice(None), [3, 1]),
    (slice(3, 6), 1, slice(None, None, -2), 4),
    (-1, [1, 0], 2, 3),
    ([], 0),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("done", [(0, 1, 2), (0, 2), ()], ids=repr)
def test_any_index_gives_what_it_gives_of_the_whole(
    tmp_path: Path, index: tuple[Any, ...], done: tuple[int, ...]
) -> None:
    plan = stored.make_run(str(tmp_path), done=done)
    whole = np.full((10, *stored.SHAPE), np.nan, np.float32)
    for shard in done:
        rows = plan.shards[shard].rows
        whole[rows] = stored.relevance("lrp")[rows]
    expected = whole
    for axis in reversed(range(len(index))):
        expected = expected[(slice(None),) * axis + (index[axis],)]
    got = open_run(tmp_path).maps["lrp"][index]
    np.testing.assert_array_equal(got, expected)


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path))
    damaged = tmp_path / "maps.zarr/lrp/relevance/c.1.0.0.0"
    damaged.write_bytes(b"nothing")
    lrp = open_run(tmp_path).maps["lrp"].isel(channel=0)
    np.testing.assert_array_equal(lrp[:4], stored.relevance("lrp")[:4, 0])
    with pytest.raises(IntegrityError, match="lrp/relevance"):
        lrp.load()


def test_what_the_ledger_does_not_vouch_for_is_masked(tmp_path: Path) -> None:
    plan = stored.make_run(str(tmp_path), done=(0, 2))
    sink = maps.MapSink(tmp_path)
    garbage = np.ones((4, *stored.SHAPE), np.float32)
    sink.write("lrp", "relevance", plan.shards[1], garbage)
    run = open_run(tmp_path)
    assert np.isnan(run.maps["lrp"][4:8]).all()
    np.testing.assert_array_equal(run.maps["lrp"][8:], stored.relevance("lrp")[8:])
    assert (run.maps["lrp"].prediction[4:8] == -1).all()
    stored.explain(str(tmp_path), sink, plan.shards[1])
    np.testing.assert_array_equal(run.maps["lrp"], stored.relevance("lrp"))


def test_records_of_another_digest_vouch_for_nothing(tmp_path: Path) -> None:
    plan = stored.make_run(str(tmp_path), done=(0, 1))
    sink = maps.MapSink(tmp_path)
    objects = sink.write("lrp", "relevance", plan.shards[2], stored.relevance("lrp")[8:])
    stored.commit(str(tmp_path), "explain", plan.shards[2], objects, digest="older")
    run = open_run(tmp_path)
    assert np.isnan(run.maps["lrp"][8:]).all()
    assert run.progress()["explain"]["done"] == 2


def test_maps_are_masked_by_the_pass_that_makes_them(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path), done=(0, 1, 2), late=(1,))
    rde = open_run(tmp_path).maps["rde"]
    np.testing.assert_array_equal(rde[4:8], stored.relevance("rde")[4:8])
    assert np.isnan(rde[:4]).all()
    assert np.isnan(rde[8:]).all()


def test_an_object_that_is_gone_is_an_error_and_not_nan(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path))
    (tmp_path / "maps.zarr/lrp/relevance/c.1.0.0.0").unlink()
    lrp = open_run(tmp_path).maps["lrp"]
    np.testing.assert_array_equal(lrp[:4], stored.relevance("lrp")[:4])
    with pytest.raises(IntegrityError, match="missing"):
        lrp[5].load()


def test_the_scale_is_applied(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path), dtype="float16", done=(0, 1))
    lrp = open_run(tmp_path).maps["lrp"]
    assert lrp.dtype == np.float32
    np.testing.assert_allclose(lrp[:8], stored.relevance("lrp")[:8], rtol=2**-11)
    assert np.isnan(lrp[8:]).all()


def test_results_of_scans_are_read_when_complete(root: str) -> None:
    stored.make_run(root, done=(0,))
    assert dict(open_run(root).scans) == {}
    stored.make_run(root, done=(0, 1, 2))
    scans = open_run(root).scans
    np.testing.assert_array_equal(scans["statistics"]["mean"], [0, 1, 2])
    with pytest.raises(KeyError, match="statistics"):
        scans["moments"]


def test_scores_have_a_row_per_sample(root: str) -> None:
    stored.make_run(root, evaluated=(0, 2))
    got = open_run(root).scores("flipping", "lrp")
    expected = np.arange(10) / 10
    expected[4:8] = np.nan
    np.testing.assert_array_equal(got["auc"], expected)
    assert got["curve"].shape == (10, 3)
    assert got["steps"].tolist() == [0, 1, 2, 3, -1, -1, -1, -1, 0, 1]
    assert open_run(root).scores("flipping", "ig") == {}
    assert open_run(root).scores("other", "lrp") == {}


def test_scores_of_another_sharding_are_refused(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path))
    objects = scores.write(tmp_path, "flipping", "lrp", 0, {"auc": np.zeros(5)})
    stored.commit(str(tmp_path), "evaluate.flipping", Shard(0, 0, 4), objects)
    with pytest.raises(StoreError, match="expected 4"):
        open_run(tmp_path).scores("flipping", "lrp")


def test_facts_and_tables_cover_what_is_done(root: str) -> None:
    stored.make_run(root, done=(0, 2))
    run = open_run(root)
    assert run.samples().to_pydict()["index"] == [0, 1, 2, 3, 8, 9]
    assert run.table("lrp").to_pydict()["sample"] == [0, 8]
    assert run.samples("explain.statistics").num_rows == 0


def test_failures_are_named_once(root: str) -> None:
    stored.make_run(root)
    assert open_run(root).failures() == [("digit-5", "cannot be decoded")]
    assert Ledger(root).entries("explain")[1].n_failed == 1


def test_progress_counts_shards_and_samples_of_each_pass(root: str) -> None:
    stored.make_run(root, done=(0, 2), evaluated=(0,))
    progress = open_run(root).progress()
    assert list(progress) == ["explain", "explain.statistics", "evaluate.flipping"]
    assert progress["explain"] == {
        "done": 2,
        "total": 3,
        "samples": 6,
        "failed": 0,
        "seconds": 0.0,
    }
    assert progress["explain.statistics"]["done"] == 0
    assert progress["evaluate.flipping"]["done"] == 1


def test_what_a_run_was_is_read(root: str) -> None:
    stored.make_run(root)
    folder = paths.Folder(root)
    folder.write(paths.RUN_FILE, stored.RUN_FILE.encode())
    run = open_run(root)
    assert run.config.name == "x"
    assert run.plan == stored.make_plan()
    assert run.manifest.sample_ids[5] == "digit-5"
    assert run.environment == {}
    folder.write(paths.ENVIRONMENT, json.dumps({"python": "3"}).encode())
    assert open_run(root).environment == {"python": "3"}
    folder.write(paths.ENVIRONMENT, b"{")
    with pytest.raises(IntegrityError, match=paths.ENVIRONMENT):
        _ = open_run(root).environment
    assert repr(run) == f"open_run({root!r})"
    assert all(name in repr(run.maps) for name in run.maps)


def test_a_folder_without_a_run_is_refused(root: str) -> None:
    with pytest.raises(StoreError, match=r"holds no run.*\n.*xpipe list"):
        open_run(root)


@pytest.mark.slow
def test_importing_the_pipeline_imports_nothing_heavy() -> None:
    code = "import sys, pipeline; print([n for n in ('torch', 'ray', 'zarr') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
