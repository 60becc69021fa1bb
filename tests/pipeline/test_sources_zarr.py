from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zarr

from pipeline import open_run
from pipeline.data import read_masks
from pipeline.errors import ConfigError, PlanError
from pipeline.manifest import Manifest
from tests.pipeline import tiny_run
from tests.pipeline.pictured import is_same, pixels, read_all, source_of

if TYPE_CHECKING:
    from pathlib import Path

N = 10


def store(base: Path, images: np.ndarray, version: int = 3, chunks: int = 4, **options: Any) -> Any:
    group = zarr.open_group(str(base / "z.zarr"), mode="w", zarr_format=version)
    array = group.create_array(
        "in/images",
        shape=images.shape,
        chunks=(chunks, *images.shape[1:]),
        dtype=images.dtype,
        **options,
    )
    array[:] = images
    return group


@pytest.mark.parametrize(
    ("version", "chunks", "options"),
    [(2, 4, {}), (3, 4, {}), (3, 1, {}), (3, 16, {}), (3, 2, {"shards": (4, 6, 5, 3)})],
)
def test_rows_are_what_was_written(
    tmp_path: Path, version: int, chunks: int, options: dict[str, Any]
) -> None:
    images = pixels(N)
    group = store(tmp_path, images, version, chunks, **options)
    group["labels"] = np.int32([*range(N - 1), -5])
    fields = {"layout": "channel_last", "label_array": "labels"}
    source = source_of("zarr", tmp_path, "z.zarr", input_array="in/images", **fields)
    assert [record.label for record in source.records()] == [*range(N - 1), -1]
    assert source.records()[3].sample_id == "000003"
    assert is_same(read_all(pickle.loads(pickle.dumps(source))), images)
    alone = source_of("zarr", tmp_path, "z.zarr/in/images", layout="channel_last")
    assert is_same(read_all(alone), images)


def test_names_masks_scales_and_several_inputs(tmp_path: Path) -> None:
    images = pixels(N)
    group = store(tmp_path, images)
    ids = group.create_array("ids", shape=(N,), dtype=str)
    ids[:] = np.array([f"image {at}" for at in range(N)], dtype=object)
    kinds = group.create_array("kinds", shape=(N,), dtype=str)
    kinds[:] = np.array(["cat", "dog"] * (N // 2), dtype=object)
    group["masks"] = images[..., 0] // 128
    group["half"] = np.linspace(0, 1, N * 4, dtype=np.float16).reshape(N, 4)
    group["scale"] = np.arange(N, dtype=np.float32)
    group["token"] = np.arange(N * 3).reshape(N, 3)
    source = source_of(
        "zarr",
        tmp_path,
        "z.zarr",
        input_array="in/images",
        layout="channel_last",
        id_array="ids",
        mask_array="masks",
        label_array="kinds",
        classes=["dog", "cat"],
        crop=[6, 5],
    )
    records = source.records()
    assert [record.sample_id for record in records[:2]] == ["image 0", "image 1"]
    assert [record.label for record in records[:2]] == [1, 0]
    masks = read_masks(source, records, (6, 5))
    assert torch.equal(masks, torch.from_numpy(images[..., 0] >= 128))
    scaled = source_of("zarr", tmp_path, "z.zarr", input_array="half", scale_array="scale")
    expected = group["half"][:].astype(np.float32) * group["scale"][:][:, None]
    assert np.array_equal(torch.stack(read_all(scaled)).numpy(), expected)
    several = source_of("zarr", tmp_path, "z.zarr", input_array={"ids": "token", "x": "half"})
    found = read_all(several)[4]
    assert found["ids"].tolist() == [12, 13, 14]
    assert found["ids"].dtype == torch.int64
    assert found["x"].dtype == torch.float32


class Gets:
    """Counts chunks that are read of a store on a disk."""

    n = 0


def test_a_chunk_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import LocalStore

    images = pixels(24)
    store(tmp_path, images, chunks=8)
    real = LocalStore.get

    async def counting(self: Any, key: str, *others: Any, **options: Any) -> Any:
        Gets.n += "/c/" in key
        return await real(self, key, *others, **options)

    monkeypatch.setattr(LocalStore, "get", counting)
    Gets.n = 0
    source = source_of("zarr", tmp_path, "z.zarr", input_array="in/images", layout="channel_last")
    records = source.records()
    assert Gets.n == 0
    source.load(records[9])
    assert Gets.n == 1
    assert is_same(read_all(source), images)
    assert Gets.n == 3


def test_a_damaged_chunk_fails_alone(tmp_path: Path) -> None:
    images = pixels(N)
    store(tmp_path, images)
    (chunk,) = (tmp_path / "z.zarr" / "in" / "images" / "c" / "1").rglob("0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:20])
    found = read_all(
        source_of("zarr", tmp_path, "z.zarr", input_array="in/images", layout="channel_last")
    )
    assert [isinstance(each, str) for each in found] == [False] * 4 + [True] * 4 + [False] * 2
    assert is_same(found[:4] + found[8:], np.concatenate([images[:4], images[8:]]))


def test_what_does_not_fit_is_refused_with_what_is_there(tmp_path: Path) -> None:
    group = store(tmp_path, pixels(N))
    group["labels"] = np.arange(N - 1)
    group["table"] = np.zeros((N, 2))
    for fields, message in (
        ({"path": "none.zarr"}, r"there is no Zarr store .*none\.zarr"),
        ({"input_array": "pictures"}, r"has no array 'pictures'; it has .*in/images"),
        ({"input_array": "in"}, "has no array 'in'"),
        ({}, "has no array ''"),
        ({"input_array": "in/images", "label_array": "labels"}, "images has 10, labels has 9"),
        ({"input_array": "in/images", "label_array": "table"}, "expected one label a sample"),
        ({"path": "z.zarr/table", "input_array": "x"}, "is an array, and has none 'x' in it"),
    ):
        with pytest.raises(PlanError, match=message):
            source_of("zarr", tmp_path, **{"path": "z.zarr", **fields}).records()
    with pytest.raises(ConfigError, match="input_arrays"):
        source_of("zarr", tmp_path, "z.zarr", input_arrays="in/images")


@pytest.mark.slow
def test_maps_of_a_run_are_samples_and_lost_ones_have_a_status(tmp_path: Path) -> None:
    output = {"path": str(tmp_path / "out"), "shard_size": 8, "dtype": "float16"}
    bad = {"source": "python", "function": "tiny.py:images", "params": {"bad": {"3": "nan"}}}
    tiny_run.run_tiny(tmp_path, explainers={"saliency": {}}, output=output, data=bad)
    source = source_of(
        "zarr",
        tmp_path,
        "out/maps.zarr",
        input_array="saliency/relevance",
        scale_array="saliency/scale",
        label_array="target",
    )
    maps = open_run(tmp_path / "out").array("saliency", "relevance")
    found = read_all(source)
    assert "are NaN or infinite" in found.pop(3)
    assert np.array_equal(torch.stack(found).numpy(), np.delete(maps.values, 3, axis=0))
    assert [record.label for record in source.records()] == open_run(tmp_path / "out").array(
        "saliency", "relevance"
    ).target.values.tolist()


@pytest.mark.parametrize("path", ["z.zarr", "z.zarr/in/images"])
def test_other_chunks_make_other_samples(tmp_path: Path, path: str) -> None:
    images = pixels(N)
    name = "" if path.endswith("images") else "in/images"

    def planned(images: np.ndarray, **options: Any) -> str:
        group = store(tmp_path, images, **options)
        group["beside"] = np.arange(3)
        fields = {"layout": "channel_last", "input_array": name}
        return Manifest(source_of("zarr", tmp_path, path, **fields).records()).digest()

    before = planned(images)
    assert planned(images) == before
    changed = images.copy()
    # what is compressed has another size
    changed[3] = 0
    assert planned(changed) != before
    assert planned(images, chunks=5) != before
    assert planned(images.astype(np.int16)) != before
