from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import xarray as xr
import zarr

from explainers.maximization.results import axes
from pipeline import paths
from pipeline.errors import StoreError
from pipeline.sinks import result_writer, results, samples, scores, states, tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture(autouse=True)
def _a_disk_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is tested in test_paths; here it would only take time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}/run"


def _is_vouched(root: str, objects: dict[str, str]) -> bool:
    folder = paths.Folder(root)
    return bool(objects) and all(folder.digest(name) == objects[name] for name in objects)


def test_samples_come_back_in_the_order_of_shards(root: str) -> None:
    for shard in (1, 0):
        index = np.arange(3) + 3 * shard
        facts = {"index": index, "sample_id": [f"s{n}" for n in index], "status": ["", "bad", ""]}
        assert _is_vouched(root, samples.write(root, "explain", shard, facts))
    rows = samples.read(root, "explain", [0, 1]).to_pydict()
    assert rows["index"] == list(range(6))
    assert rows["sample_id"][4] == "s4"
    assert rows["status"] == ["", "bad", ""] * 2
    assert samples.read(root, "explain", []).num_rows == 0


def test_columns_of_different_lengths_are_refused(root: str) -> None:
    with pytest.raises(StoreError, match="one row per sample"):
        samples.write(root, "explain", 0, {"index": np.arange(3), "status": [""]})
    with pytest.raises(StoreError, match="one or two dimensions"):
        scores.write(root, "m", "e", 0, {"x": np.zeros((2, 2, 2))})


def test_scores_are_scalars_and_curves(root: str) -> None:
    curves = np.random.default_rng(0).standard_normal((10, 5)).astype(np.float32)
    curves[3] = np.nan
    for shard, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 10))):
        columns = {"auc": curves[rows, 0].astype(np.float64), "curve": curves[rows]}
        assert _is_vouched(root, scores.write(root, "flipping", "lrp", shard, columns))
    assert scores.stored_shards(root, "flipping", "lrp") == (0, 1, 2)
    got = scores.read(root, "flipping", "lrp")
    np.testing.assert_array_equal(got["curve"], curves)
    assert got["curve"].dtype == np.float32
    np.testing.assert_array_equal(got["auc"], curves[:, 0])
    part = scores.read(root, "flipping", "lrp", [1])
    np.testing.assert_array_equal(part["curve"], curves[4:8])
    assert scores.read(root, "flipping", "other") == {}


def test_table_rows_may_differ_and_shards_may_have_none(root: str) -> None:
    written = [[{"sample": 0, "members": [1, 2]}, {"sample": 0, "score": 0.5}], [], [{"sample": 9}]]
    for shard, rows in enumerate(written):
        assert _is_vouched(root, tables.write(root, "acd", shard, rows))
    got = tables.read(root, "acd", range(3)).to_pylist()
    assert [row["sample"] for row in got] == [0, 0, 9]
    assert got[0]["members"] == [1, 2]
    assert got[1]["score"] == 0.5
    assert tables.read(root, "acd", [1]).num_rows == 0


def test_states_come_back_to_the_bit(root: str) -> None:
    wide = torch.randn(4, 6, dtype=torch.float64)
    state = {
        "sum": wide[:, ::2],
        "shared": wide.T,
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "flags": torch.tensor([True, False]),
    }
    objects = states.write(root, "statistics", "mean", 3, state)
    assert list(objects) == ["states/statistics/mean/3.safetensors"]
    got = states.read(root, "statistics", "mean", 3)
    assert set(got) == set(state)
    assert all(torch.equal(got[name], state[name]) for name in state)
    assert all(got[name].dtype == state[name].dtype for name in state)
    reordered = dict(reversed(list(state.items())))
    assert states.write(root, "statistics", "mean", 3, reordered) == objects


def test_an_unreadable_state_is_an_error_that_says_what_to_do(root: str) -> None:
    with pytest.raises(StoreError, match="verify --repair"):
        states.read(root, "statistics", "mean", 0)
    paths.Folder(root).write("states/statistics/mean/0.safetensors", b"no tensors")
    with pytest.raises(StoreError, match="verify --repair"):
        states.read(root, "statistics", "mean", 0)


RESULT = {
    "mean": torch.arange(6.0, dtype=torch.float64).reshape(2, 3),
    "count": 10,
    "share": float("nan"),
    "note": "exact",
    "shape": (2, 3),
    "zeros": torch.zeros(4, dtype=torch.int64),
    "features.0#1": {
        "sum/normed": {"sample": np.array([3, -1]), "value": np.array([0.5, np.nan])},
        "per_class": {0: {}, 3: {"x": np.zeros((0, 4))}},
    },
    "half": torch.ones(3, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5),
}


def test_a_result_comes_back_as_nested_arrays(root: str) -> None:
    objects = results.write(root, "statistics", RESULT)
    assert _is_vouched(root, objects)
    assert results.objects(root, "statistics") == objects
    assert results.names(root) == ("statistics",)
    got = results.read(root, "statistics")
    assert list(got) == list(RESULT)
    np.testing.assert_array_equal(got["mean"], RESULT["mean"])
    assert got["mean"].dtype == np.float64
    assert (got["count"], got["note"], got["shape"]) == (10, "exact", [2, 3])
    assert np.isnan(got["share"])
    np.testing.assert_array_equal(got["zeros"], np.zeros(4))
    layer = got["features.0#1"]
    np.testing.assert_array_equal(layer["sum/normed"]["value"], [0.5, np.nan])
    assert list(layer["per_class"]) == [0, 3]
    assert layer["per_class"][3]["x"].shape == (0, 4)
    np.testing.assert_array_equal(got["half"], np.ones(3))
    assert got["scalar"] == 2.5


def test_xarray_opens_a_result(tmp_path: Path) -> None:
    results.write(tmp_path, "statistics", {"mean": torch.ones(2, 3), "layer": {"x": torch.ones(4)}})
    tree = xr.open_datatree(tmp_path / "scans/statistics.zarr", engine="zarr")
    assert tree["mean"].shape == (2, 3)
    assert tree["layer"]["x"].shape == (4,)


def test_arrays_have_the_attributes_that_the_scan_gives_them(tmp_path: Path) -> None:
    def said(path: Sequence[Any]) -> dict[str, Any]:
        return {"flag_meanings": "a b"} if path[-1] == "how" else {}

    part = {"classes": {label: {"how": torch.tensor(0), "te": torch.ones(1)} for label in (3, 5)}}
    results.write_parts(tmp_path, "graph", [part], attributes=said)
    group = zarr.open_group(tmp_path / "scans/graph.zarr", mode="r")
    assert dict(group["classes/how"].attrs) == {"flag_meanings": "a b"}
    assert not dict(group["classes/te"].attrs)


@pytest.mark.slow
def test_lists_have_named_axes_and_classes_are_a_coordinate(tmp_path: Path) -> None:
    ranked = {name: torch.arange(6).reshape(2, 3) for name in ("sample", "value")}
    references = {"heatmap": torch.ones(1, 3, 4, 5), "crop": torch.ones(1, 3, 4)}
    layer = {
        "sum": ranked,
        "per_class": {label: {"sum": ranked} for label in (7, 2)},
        "references": references,
        "quality": {"clarity": torch.ones(3), "redundancy": torch.tensor(0.5)},
    }
    signals = {"references": {"heatmap": torch.ones(1, 3, 4, 5)}}
    parts = [{"conv2": layer}, {"other": {"per_class": {7: {"sum": ranked}}}, "flat": signals}]
    objects = results.write_parts(tmp_path, "relmax", parts, axes=axes)
    assert _is_vouched(tmp_path, objects)
    tree = xr.open_datatree(tmp_path / "scans/relmax.zarr", engine="zarr")
    conv = tree["conv2"]
    assert conv["sum/value"].where(conv["sum/sample"] >= 0).sizes == {"rank": 2, "channel": 3}
    assert conv["per_class/sum/value"].sizes == {"class": 2, "rank": 2, "channel": 3}
    assert conv["per_class/sum"].sel({"class": 2})["sample"].values.tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    assert conv["references/heatmap"].dims == ("rank", "channel", "height", "width")
    assert conv["references/crop"].dims == ("rank", "channel", "box")
    assert conv["quality/clarity"].dims == ("channel",)
    assert tree["other/per_class/7/sum/value"].dims == ("rank", "channel")
    assert tree["flat/references/heatmap"].dims[2:] == ("input_0", "input_1")
    # what is read as a result is what was written
    assert list(results.read(tmp_path, "relmax")["conv2"]["per_class"][7]) == ["sum"]


def test_equal_results_have_equal_bytes(tmp_path: Path) -> None:
    first = results.write(tmp_path / "a", "statistics", RESULT)
    assert results.write(tmp_path / "b", "statistics", RESULT) == first


def test_a_result_is_replaced_as_a_whole_and_counts_when_its_record_is_there(root: str) -> None:
    results.write(root, "statistics", {"old": torch.ones(2)})
    results.write(root, "statistics", {"new": torch.ones(2)})
    assert list(results.read(root, "statistics")) == ["new"]
    assert not [name for name in paths.Folder(root).files() if "old" in name]
    paths.Folder(root).remove("scans/statistics.json")
    assert not results.exists(root, "statistics")
    with pytest.raises(StoreError, match="no result"):
        results.read(root, "statistics")
    results.withdraw(root, "statistics")
    assert paths.Folder(root).files() == []


def test_large_arrays_are_cut_along_their_first_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_writer, "CHUNK_BYTES", 100)
    values = torch.arange(60.0).reshape(10, 6)
    objects = results.write(tmp_path, "statistics", {"covariance": values})
    assert sum("/c." in name for name in objects) == 3
    np.testing.assert_array_equal(results.read(tmp_path, "statistics")["covariance"], values)


def test_chunks_are_small_however_many_axes_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_writer, "CHUNK_BYTES", 100)
    values = torch.arange(2 * 7 * 4 * 4.0).reshape(2, 7, 4, 4)
    objects = results.write(tmp_path, "relmax", {"heatmap": values, "none": torch.zeros(2, 0, 3)})
    # two axes of 2 and 7, of which each chunk has one: a picture has 64 bytes
    assert sum("heatmap/c." in name for name in objects) == 14
    found = results.stored(tmp_path, "relmax")
    np.testing.assert_array_equal(found["heatmap"], values)
    np.testing.assert_array_equal(found.part("heatmap", (1, slice(2, 4))), values[1, 2:4])
    assert (found.shape("heatmap"), found.dtype("heatmap")) == ((2, 7, 4, 4), "float32")
    assert found["none"].shape == (2, 0, 3)


def test_parts_of_a_result_are_joined(tmp_path: Path) -> None:
    parts = [
        {"a": {"x": torch.zeros(3), "n": 1}, "late": torch.ones(2)},
        {"b": {"x": torch.ones(1)}, "a": {"y": torch.ones(4)}, "late": torch.ones(900) * 2},
    ]
    objects = results.write_parts(tmp_path, "relmax", parts, {"method": "m"})
    assert _is_vouched(tmp_path, objects)
    assert results.provenance(tmp_path, "relmax") == {"method": "m"}
    found = results.read(tmp_path, "relmax")
    assert {key: list(value) for key, value in found.items() if key != "late"} == {
        "a": ["x", "n", "y"],
        "b": ["x"],
    }
    np.testing.assert_array_equal(found["late"], np.full(900, 2))
    with pytest.raises(StoreError, match="a mapping in one part and a value in another"):
        results.write_parts(tmp_path, "relmax", [{"a": {"x": torch.ones(1)}}, {"a": 3}])
    classes = {label: {"x": torch.ones(2)} for label in range(3)}
    with pytest.raises(StoreError, match="one stack of classes"):
        results.write_parts(tmp_path, "relmax", [{"a": classes}, {"a": classes}])
    assert not results.exists(tmp_path, "relmax")


def test_classes_that_are_alike_are_stored_as_one(tmp_path: Path) -> None:
    classes = {
        label: {"sum": {"sample": torch.full((2, 3), label), "value": torch.zeros(2, 3) + label}}
        for label in (7, 2, 30)
    }
    others = {7: {"x": torch.ones(2)}, 2: {"x": torch.ones(3)}}
    result = {"layer": {"per_class": classes}, "other": others}
    objects = results.write(tmp_path, "relmax", result)
    assert sum("per_class" in name for name in objects) == 6
    found = results.stored(tmp_path, "relmax")
    per_class = found["layer"]["per_class"]
    assert list(per_class) == [7, 2, 30]
    assert 7 in per_class
    assert 8 not in per_class
    assert per_class[30]["sum"]["value"].tolist() == [[30.0] * 3] * 2
    assert per_class[2]["sum"].part("sample", 1).tolist() == [2] * 3
    assert per_class[2]["sum"].shape("sample") == (2, 3)
    assert per_class.together["sum"]["sample"][:, 0, 0].tolist() == [7, 2, 30]
    assert [path for path, _, _ in found.leaves()] == [
        "layer/per_class/sum/sample",
        "layer/per_class/sum/value",
        "other/7/x",
        "other/2/x",
    ]
    with pytest.raises(KeyError, match="8"):
        per_class[8]
    with pytest.raises(KeyError, match="there are: 'layer', 'other'"):
        found["none"]
    loaded = found.load()
    assert loaded["layer"]["per_class"][7]["sum"]["sample"].tolist() == [[7] * 3] * 2
    assert loaded["other"][2]["x"].tolist() == [1.0] * 3


def test_a_flipped_bit_in_a_result_is_noticed_by_readers(tmp_path: Path) -> None:
    results.write(tmp_path, "statistics", {"mean": torch.randn(50)})
    path = tmp_path / "scans/statistics.zarr/mean/c.0"
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot read the result"):
        results.read(tmp_path, "statistics")


def test_what_no_result_can_hold_is_refused(root: str) -> None:
    with pytest.raises(StoreError, match="got a object in a result"):
        results.write(root, "statistics", {"x": object()})


def test_equal_columns_have_equal_bytes(tmp_path: Path) -> None:
    columns = {"index": np.arange(5), "curve": np.zeros((5, 3)), "id": list("abcde")}
    first = samples.write(tmp_path / "a", "explain", 0, columns)
    assert samples.write(tmp_path / "b", "explain", 0, columns) == first


def test_a_flipped_bit_in_a_column_is_noticed_by_readers(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(500)
    samples.write(tmp_path, "explain", 0, {"logit": values})
    path = tmp_path / "samples/explain/0.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises((StoreError, pa.ArrowException), match="cannot read"):
        samples.read(tmp_path, "explain", [0])
