from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from zarr.storage import LocalStore, MemoryStore

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.ledger import Ledger
from pipeline.shards import Shard, cut
from pipeline.sinks import maps, nodes
from tests.pipeline import stored

if TYPE_CHECKING:
    from pathlib import Path

SHARDS = cut(10, 4)
LAYOUT = maps.Layout(("channel", "height", "width"), (3, 8, 8), "float32")


@pytest.fixture
def relevance() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((10, 3, 8, 8)).astype(np.float32)
    values[5] = np.nan
    return values


def _write(sink: maps.MapSink, name: str, array: str, values: np.ndarray) -> dict[str, str]:
    objects: dict[str, str] = {}
    for shard in SHARDS:
        objects |= sink.write(name, array, shard, values[shard.rows])
    return objects


@pytest.mark.parametrize("place", ["local", "memory"])
def test_maps_are_read_as_they_were_written(
    tmp_path: Path, relevance: np.ndarray, place: str
) -> None:
    root = str(tmp_path) if place == "local" else f"memory://{tmp_path.name}"
    sink = maps.MapSink(root)
    sink.create({"lrp": LAYOUT, "lrp/delta": maps.Layout()}, 10, 4)
    objects = _write(sink, "lrp", "relevance", relevance)
    objects |= _write(sink, "lrp", "delta", np.arange(10.0))
    np.testing.assert_array_equal(maps.read(root, "lrp")[:], relevance)
    np.testing.assert_array_equal(maps.read(root, "lrp", "delta")[:], np.arange(10.0))
    folder = paths.Folder(root)
    assert len(objects) == 2 * (3 + 1)  # three shards and the metadata, each
    assert all(folder.digest(name) == digest for name, digest in objects.items())


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_shards_have_the_bytes_that_zarr_python_writes(tmp_path: Path, dtype: str) -> None:
    layout = LAYOUT._replace(dtype=dtype)
    maps.MapSink(tmp_path).create({"lrp/standard_error": layout, "lrp/x": ((), (), dtype)}, 10, 4)
    wide = np.random.default_rng(0).integers(-9, 9, (10, 3, 8, 8)).astype(dtype)
    for name, values in (("standard_error", wide), ("x", wide[:, 0, 0, 0].copy())):
        _write(maps.MapSink(tmp_path), "lrp", name, values)
        ours = paths.Folder(tmp_path / "maps.zarr/lrp" / name)
        kept: dict[str, Any] = {"zarr.json": _buffer(ours.read("zarr.json"))}
        theirs = zarr.open_array(MemoryStore(kept), mode="r+")
        for shard in SHARDS:
            theirs[shard.rows] = values[shard.rows]
        for key in kept:
            assert ours.read(key) == kept[key].to_bytes(), key


def _buffer(content: bytes) -> Any:
    return zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(content)


def test_a_chunk_is_a_sample_and_a_zarr_shard_is_a_shard(tmp_path: Path) -> None:
    maps.MapSink(tmp_path).create({"lrp": LAYOUT}, 10, 4)
    array = maps.read(tmp_path, "lrp")
    assert array.shards == (4, 3, 8, 8)
    assert array.chunks == (1, 3, 8, 8)
    assert maps.read(tmp_path, "", "target").chunks == (4,)
    document = json.loads((tmp_path / "maps.zarr/lrp/relevance/zarr.json").read_text())
    codecs = [codec["name"] for codec in document["codecs"][0]["configuration"]["codecs"]]
    assert codecs == ["bytes", "zstd", "crc32c"]


@pytest.mark.parametrize("array", ["relevance", "delta"])
def test_every_flipped_bit_of_a_shard_is_noticed_by_readers(
    tmp_path: Path, relevance: np.ndarray, array: str
) -> None:
    sink = maps.MapSink(tmp_path)
    sink.create({"lrp": LAYOUT, "lrp/delta": maps.Layout()}, 10, 4)
    _write(sink, "lrp", array, relevance if array == "relevance" else np.arange(10.0))
    path = next((tmp_path / "maps.zarr/lrp" / array).glob("c.1*"))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(40):
        position, bit = generator.integers(len(content)), generator.integers(8)
        path.write_bytes(_flipped(content, int(position), int(bit)))
        with pytest.raises((ValueError, RuntimeError), match=r".+"):
            maps.read(tmp_path, "lrp", array)[4:8]


def _flipped(content: bytes, position: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


HALF = arrays.arrays(
    np.float32,
    (3, 20),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)


@given(values=HALF)
def test_float16_loses_no_more_than_its_rounding(values: np.ndarray) -> None:
    # float16 has 11 bits: half a unit in the last place is 2**-11 of a value. Scaled by a power of
    # two to a maximum in [2**14, 2**15), values are normal (>= 2**-14) down to 2**-28 of it, and
    # half a subnormal unit (2**-25) is at most 2**-39 of it. 2**-140: where float32 ends itself.
    halved, scale = maps.halve(values)
    assert halved.dtype == np.float16
    assert scale.dtype == np.float32
    restored = halved.astype(np.float64) * scale[:, None]
    largest = np.abs(values).max(1, keepdims=True).astype(np.float64)
    bound = np.maximum(2.0**-11 * np.abs(values), 2.0**-39 * largest) + 2.0**-140
    assert (np.abs(restored - values) <= bound).all()


def test_float16_of_nothing_and_of_what_is_not_finite() -> None:
    values = np.array([[0, 0], [np.nan, np.nan], [np.inf, 1]], dtype=np.float32)
    halved, scale = maps.halve(values)
    np.testing.assert_array_equal(halved.astype(np.float32) * scale[:, None], values)


def test_float16_is_stored_with_its_scale(tmp_path: Path, relevance: np.ndarray) -> None:
    sink = maps.MapSink(tmp_path)
    sink.create({"lrp": LAYOUT._replace(dtype="float16")}, 10, 4)
    objects = _write(sink, "lrp", "relevance", relevance * 1e-9)
    assert "maps.zarr/lrp/scale/c.2" in objects
    half, scale = maps.read(tmp_path, "lrp"), maps.read(tmp_path, "lrp", "scale")
    assert half.dtype == np.float16
    assert half.attrs["scaled_by"] == "scale"
    restored = half[:].astype(np.float32) * scale[:].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(restored, relevance * 1e-9, rtol=2**-11)


def test_creating_again_changes_nothing(tmp_path: Path, relevance: np.ndarray) -> None:
    sink = maps.MapSink(tmp_path)
    sink.create({"lrp": LAYOUT}, 10, 4)
    _write(sink, "lrp", "relevance", relevance)
    sink.add("lrp", "delta", maps.Layout(), 10, 4)
    sink.consolidate()
    before = {name: sink._folder.read(name) for name in sink._folder.files()}
    maps.MapSink(tmp_path).create({"lrp": LAYOUT}, 10, 4)
    assert {name: sink._folder.read(name) for name in sink._folder.files()} == before


def test_creating_another_array_in_its_place_is_refused(tmp_path: Path) -> None:
    maps.MapSink(tmp_path).create({"lrp": LAYOUT}, 10, 4)
    with pytest.raises(StoreError, match="another array"):
        maps.MapSink(tmp_path).create({"lrp": LAYOUT}, 10, 5)


def test_what_does_not_fit_is_refused(tmp_path: Path, relevance: np.ndarray) -> None:
    sink = maps.MapSink(tmp_path)
    sink.create({"lrp": LAYOUT}, 10, 4)
    with pytest.raises(StoreError, match=r"expected \(4, 3, 8, 8\)"):
        sink.write("lrp", "relevance", SHARDS[0], relevance[:3])
    with pytest.raises(StoreError, match="shards have 4 of 10"):
        sink.write("lrp", "relevance", Shard(0, 0, 5), relevance[:5])
    with pytest.raises(StoreError, match="no array 'ig/relevance'"):
        sink.write("ig", "relevance", SHARDS[0], relevance[:4])
    with pytest.raises(StoreError, match="no array 'ig/relevance'"):
        maps.read(tmp_path, "ig")


def test_xarray_opens_everything(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path))
    tree = xr.open_datatree(tmp_path / "maps.zarr", engine="zarr")
    assert set(tree.children) == {"lrp", "ig", "rde"}
    assert tree["lrp"]["relevance"].dims == ("sample", "channel", "height", "width")
    np.testing.assert_array_equal(tree["ig"]["relevance"], stored.relevance("ig"))
    np.testing.assert_array_equal(tree["sample"], np.arange(10))
    assert {"target", "prediction"} < set(tree.coords)
    dataset = xr.open_zarr(tmp_path / "maps.zarr", group="ig")
    assert set(dataset) == {"relevance", "convergence_delta"}


def test_several_targets_are_a_dimension(tmp_path: Path) -> None:
    sink = maps.MapSink(tmp_path)
    layout = maps.Layout(("target", *LAYOUT.dims), (2, *LAYOUT.shape))
    of_target = maps.Layout(("target",), (2,), "int64")
    sink.create({"lrp": layout}, 10, 4, maps.COORDINATES | {"target": of_target})
    values = np.zeros((4, 2, *LAYOUT.shape), np.float32)
    sink.write("lrp", "relevance", SHARDS[0], values)
    sink.write_coordinates(SHARDS[0], {"target": np.ones((4, 2), np.int64)})
    tree = xr.open_datatree(tmp_path / "maps.zarr", engine="zarr")
    assert tree["lrp"]["relevance"].dims[:2] == ("sample", "target")
    assert tree["target"].dims == ("sample", "target")


def test_channels_that_are_summed_are_no_dimension() -> None:
    assert maps.without_channels(LAYOUT) == maps.Layout(("height", "width"), (8, 8), "float32")


def test_what_is_not_written_is_fill(tmp_path: Path) -> None:
    maps.MapSink(tmp_path).create({"lrp": LAYOUT}, 10, 4)
    assert np.isnan(maps.read(tmp_path, "lrp")[:]).all()
    assert (maps.read(tmp_path, "", "target")[:] == -1).all()
    assert [nodes.fill_value(dtype) for dtype in ("bool", "uint8")] == [0, 0]


DYING = """
import os, signal, sys
import numpy as np
from pipeline.sinks import maps
from tests.pipeline import stored
root, deadly = sys.argv[1], sys.argv[2]
plan = stored.make_run(root, done=(0,))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, deadly, die)
stored.explain(root, maps.MapSink(root), plan.shards[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("deadly", ["fsync", "replace", "link"])
def test_a_writer_killed_in_a_shard_leaves_nothing_that_counts(tmp_path: Path, deadly: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), deadly], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(Ledger(tmp_path).entries("explain")) == [0]
    # Each object is whole or not there; what is not there reads as NaN.
    for name in ("lrp", "ig"):
        got = zarr.open_array(LocalStore(tmp_path / "maps.zarr"), path=f"{name}/relevance")[4:8]
        whole = stored.relevance(name)[4:8]
        assert np.isnan(got).all() or np.array_equal(got, whole, equal_nan=True)
    left = [path for path in tmp_path.rglob(".*.tmp") if path.is_file()]
    assert len(left) == 1
    assert paths.is_temporary(left[0].name)
    # The next writer is not disturbed by what is left.
    plan = stored.make_plan()
    stored.explain(str(tmp_path), maps.MapSink(tmp_path), plan.shards[1])
    assert list(Ledger(tmp_path).entries("explain")) == [0, 1]
