from __future__ import annotations

import json
import pickle
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from pipeline.data import files, read_masks, read_one, row_groups
from pipeline.data.parquet import Parquet
from pipeline.errors import ConfigError, PlanError
from pipeline.manifest import Manifest
from tests.pipeline.pictured import as_input, is_same, pixels, png, read_all, source_of
from tests.pipeline.s3_server import s3, s3_server  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

N = 10


def columns(images: np.ndarray) -> dict[str, Any]:
    """The same pictures in every way that a column can hold them."""
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    eight = pa.list_(pa.list_(pa.list_(pa.uint8())))
    return {
        "image": [{"bytes": png(image), "path": None} for image in images],
        "raw": [png(image) for image in images],
        "large": pa.array([png(image) for image in images], pa.large_binary()),
        "nested": pa.array(images.tolist(), eight),
        "flat": pa.array([image.ravel().tolist() for image in images], pa.list_(pa.uint8())),
        "fixed": pa.array(
            [image.ravel().tolist() for image in first], pa.list_(pa.uint8(), first[0].size)
        ),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(first),
    }


def write(path: Path, table: pa.Table | dict[str, Any], size: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, size)


@pytest.mark.parametrize(
    ("column", "fields"),
    [
        ("image", {}),
        ("raw", {}),
        ("large", {}),
        ("nested", {"layout": "channel_last"}),
        ("flat", {"layout": "channel_last", "shape": [6, 5, 3]}),
        ("fixed", {"shape": [3, 6, 5]}),
        ("tensor", {}),
    ],
)
def test_pictures_are_what_was_written(tmp_path: Path, column: str, fields: Any) -> None:
    images = pixels(N)
    write(tmp_path / "a.parquet", columns(images))
    source = source_of("parquet", tmp_path, "a.parquet", input_column=column, **fields)
    assert is_same(read_all(pickle.loads(pickle.dumps(source))), images)


def test_other_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    table = {
        "float": [[0.5, -2.0], [1.0, 300.0]],
        "token": pa.array([[7, 9], [1, 2]], pa.list_(pa.int32())),
        "half": pa.array([np.float16([1, 2]), np.float16([3, 4])], pa.list_(pa.float16())),
    }
    write(tmp_path / "a.parquet", table)
    expected = {
        "float": torch.tensor([1.0, 300.0]),
        "token": torch.tensor([1, 2]),
        "half": torch.tensor([3.0, 4.0]),
    }
    for column, values in expected.items():
        found = read_all(source_of("parquet", tmp_path, "a.parquet", input_column=column))[1]
        assert found.dtype == values.dtype
        assert torch.equal(found, values)


def test_rows_are_in_the_order_of_files_and_empty_row_groups_are_none(tmp_path: Path) -> None:
    images = pixels(7)
    rows = pa.table(
        {"image": columns(images)["raw"], "label": list(range(7)), "id": list("abcdefg")}
    )
    write(tmp_path / "d" / "sub" / "z.parquet", rows.slice(4), 2)
    write(tmp_path / "d" / "none.parquet", rows.slice(0, 0))
    with pq.ParquetWriter(tmp_path / "d" / "a.parquet", rows.schema) as writer:
        for part in (rows.slice(0, 0), rows.slice(0, 3), rows.slice(0, 0), rows.slice(3, 1)):
            writer.write_table(part)
    source = source_of("parquet", tmp_path, "d", label_column="label")
    records = source.records()
    assert [(record.index, record.label) for record in records] == [(i, i) for i in range(7)]
    assert records[0].sample_id == "a/000000"
    assert records[-1].sample_id == "sub/z/000002"
    assert is_same(read_all(source), images)
    named = source_of("parquet", tmp_path, "d/**/*.parquet", id_column="id")
    assert [(record.sample_id, record.label) for record in named.records()] == [
        (name, -1) for name in "abcdefg"
    ]
    assert is_same(read_all(named), images)


def test_classes_are_named_by_the_run_file_or_hugging_face(tmp_path: Path) -> None:
    table = pa.table(
        {"image": columns(pixels(3))["raw"], "label": [1, None, 0], "kind": ["b", "", "a"]}
    )
    about = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    write(tmp_path / "a.parquet", table.replace_schema_metadata({"huggingface": json.dumps(about)}))
    source = source_of("parquet", tmp_path, "a.parquet", label_column="label")
    assert source.class_names == ("ant", "bee")
    assert [record.label for record in source.records()] == [1, -1, 0]
    named = source_of("parquet", tmp_path, "a.parquet", label_column="kind", classes=["a", "b"])
    assert named.class_names == ("a", "b")
    assert [record.label for record in named.records()] == [1, -1, 0]
    with pytest.raises(PlanError, match=r"the label 'b', expected a whole number") as raised:
        source_of("parquet", tmp_path, "a.parquet", label_column="kind").records()
    assert "a, b" in raised.value.fix


def test_masks_are_fitted_as_their_images(tmp_path: Path) -> None:
    images = pixels(3)
    masks = images[..., 0] // 128
    table = {
        "image": columns(images)["raw"],
        "seg": [png(masks[0]), None, png(masks[2])],
        "array": pa.array(masks.tolist(), pa.list_(pa.list_(pa.uint8()))),
    }
    write(tmp_path / "a.parquet", table)
    source = source_of("parquet", tmp_path, "a.parquet", mask_column="seg", crop=4)
    found = read_masks(source, source.records(), (4, 4))
    cut = torch.from_numpy(masks[:, 1:5, 0:4] > 0)
    assert torch.equal(found[0], cut[0])
    assert torch.equal(found[2], cut[2])
    assert not found[1].any()
    source = source_of("parquet", tmp_path, "a.parquet", mask_column="array", crop=4)
    assert torch.equal(read_masks(source, source.records(), (4, 4)), cut)


def test_what_is_bad_in_a_row_is_its_status(tmp_path: Path) -> None:
    images = pixels(4)
    good = png(images[0])
    held: list[Any] = [
        {"bytes": good, "path": None},
        None,
        {"bytes": good[:60], "path": None},
        {"bytes": None, "path": "cat.jpg"},
        {"bytes": b"", "path": None},
        {"bytes": good, "path": None},
    ]
    lists = [
        [[1.0, 2.0], [3.0, 4.0]],
        [[1.0], [2.0, 3.0]],
        None,
        [[1.0, None], [2.0, 3.0]],
        [],
        [[5.0, 6.0]],
    ]
    write(tmp_path / "a.parquet", {"image": held, "lists": lists})
    found = read_all(source_of("parquet", tmp_path, "a.parquet"))
    assert torch.equal(found[0], as_input(images[0]))
    assert torch.equal(found[5], as_input(images[0]))
    assert all(isinstance(each, str) for each in found[1:5])
    assert "the value is missing" in found[1]
    assert "only its path 'cat.jpg'" in found[3]
    found = read_all(source_of("parquet", tmp_path, "a.parquet", input_column="lists", shape=[4]))
    assert found[0].tolist() == [1, 2, 3, 4]
    for each, reason in zip(
        found[1:],
        [
            "differ in length",
            "value is missing",
            "1 of 4 numbers",
            "got 0 numbers",
            "got 2 numbers",
        ],
        strict=True,
    ):
        assert reason in each


def test_a_damaged_row_group_fails_alone(tmp_path: Path) -> None:
    images = pixels(N)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": columns(images)["raw"]}), path, row_group_size=4, compression="snappy"
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    found = read_all(source_of("parquet", tmp_path, "a.parquet"))
    assert [isinstance(each, str) for each in found] == [False] * 4 + [True] * 4 + [False] * 2
    assert is_same(found[:4] + found[8:], np.concatenate([images[:4], images[8:]]))


def test_what_does_not_fit_is_refused_with_what_is_there(tmp_path: Path) -> None:
    table = {"image": columns(pixels(2))["raw"], "label": [0, 1], "name": ["a", "b"]}
    write(tmp_path / "d" / "a.parquet", table)
    for fields, message in (
        ({"input_column": "picture"}, "has the columns image, label, name, and no 'picture'"),
        ({"label_column": "class"}, "no 'class'"),
        ({"mask_column": "name"}, "'name' .* holds string, expected bytes of images"),
        ({"input_column": "label"}, "holds int64"),
    ):
        with pytest.raises(PlanError, match=message) as raised:
            source_of("parquet", tmp_path, "d", **fields).records()
        assert raised.value.fix
    (tmp_path / "d" / "b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(PlanError, match=r"cannot read .*b\.parquet"):
        source_of("parquet", tmp_path, "d").records()
    write(tmp_path / "none.parquet", pa.table({"image": pa.array([], pa.binary())}))
    with pytest.raises(PlanError, match="have no rows"):
        source_of("parquet", tmp_path, "none.parquet").records()
    with pytest.raises(ConfigError, match="every name once"):
        source_of("parquet", tmp_path, "d", classes=["a", "a"])
    with pytest.raises(ConfigError, match="expected positive values"):
        source_of("parquet", tmp_path, "d", std=[0.0])


class Counted:
    """A file that counts what is read of it."""

    n_bytes = 0

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        content: bytes = self.file.read(size)
        Counted.n_bytes += len(content)
        return content

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    opened = files.open_file
    monkeypatch.setattr(files, "open_file", lambda path: Counted(opened(path)))
    monkeypatch.setattr(row_groups, "SLICE_BYTES", 64 * 1024)
    monkeypatch.setattr(row_groups, "_BUFFER", 16 * 1024)
    Counted.n_bytes = 0
    return Counted


def test_a_row_group_as_large_as_its_file_is_never_held(
    tmp_path: Path, counted: type[Counted]
) -> None:
    n, size = 256, 8192
    numbers = np.random.default_rng(0).integers(0, 256, (n, size), dtype=np.uint8)
    held = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), size)
    other = pa.array([bytes(each) for each in numbers[::-1]])
    path = f"memory://{tmp_path.name}/large.parquet"
    table = pa.table({"image": held, "other": other, "label": list(range(n))})
    with files._system(path)[0].open(path, "wb") as file:
        pq.write_table(
            table, file, n, data_page_size=size, use_dictionary=False, compression="none"
        )
    source = Parquet(path=path, label_column="label")
    records = source.records()
    # the end of the file, of which pyarrow asks for 64 KiB, and the labels
    assert counted.n_bytes < 100_000
    counted.n_bytes = 0
    assert torch.equal(source.load(records[0]), torch.from_numpy(numbers[0] / np.float32(255)))
    assert counted.n_bytes < n * size / 10
    for record in records:
        assert torch.equal(
            source.load(record), torch.from_numpy(numbers[record.index] / np.float32(255))
        )
    # each page of the column once, of the other none: Parquet has four bytes for small integers
    assert counted.n_bytes < 1.1 * 4 * n * size
    held_now = sum(rows.nbytes for rows in source._rows._slices.values())
    assert held_now < n * size / 4


def test_threads_in_any_order_get_their_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "SLICE_BYTES", 200)
    images = pixels(24)
    for part in range(3):
        write(
            tmp_path / "d" / f"{part}.parquet", {"image": columns(images[part * 8 :][:8])["raw"]}, 5
        )
    source = source_of("parquet", tmp_path, "d")
    order = source.records()
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda record: read_one(source, record), order))
    assert is_same(found, images[[record.index for record in order]])


@pytest.mark.slow
def test_every_kind_of_file_is_read_from_an_object_store(tmp_path: Path, s3: str) -> None:  # noqa: F811
    images = pixels(12)
    write(tmp_path / "p" / "a.parquet", {"image": columns(images)["raw"]}, 5)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for at, image in enumerate(images):
            (tmp_path / "one.png").write_bytes(png(image))
            tar.add(tmp_path / "one.png", f"{at:02d}.png")
    group = zarr.open_group(str(tmp_path / "z.zarr"), mode="w")
    group.create_array("images", data=images, chunks=(5, 6, 5, 3))
    fsspec.filesystem("s3").put(str(tmp_path) + "/", f"{s3}/", recursive=True)
    for kind, path, fields in (
        ("parquet", "p", {}),
        ("parquet", "p/*.parquet", {}),
        ("webdataset", "{t,t}.tar", {}),
        ("zarr", "z.zarr/images", {"layout": "channel_last"}),
    ):
        source = source_of(kind, tmp_path, f"{s3}/{path}", **fields)
        assert is_same(read_all(pickle.loads(pickle.dumps(source))), images)
        if kind != "zarr":
            # the store's tag: other content is another run
            assert str(source.records()[0].digest).startswith("etag:")


def test_a_row_without_an_id_is_called_by_its_place(tmp_path: Path) -> None:
    images = [png(image) for image in pixels(3)]
    write(tmp_path / "a.parquet", {"image": images, "key": ["x", None, None]})
    found = source_of("parquet", tmp_path, "a.parquet", id_column="key").records()
    assert [record.sample_id for record in found] == ["x", "a/000001", "a/000002"]


def test_a_file_of_another_size_makes_other_samples(tmp_path: Path) -> None:
    images = [png(image) for image in pixels(3)]

    def planned() -> str:
        return Manifest(source_of("parquet", tmp_path, "a.parquet").records()).digest()

    write(tmp_path / "a.parquet", {"image": images})
    before = planned()
    write(tmp_path / "a.parquet", {"image": images})
    assert planned() == before
    write(tmp_path / "a.parquet", {"image": [*images[:2], images[2] + b"x"]})
    assert planned() != before
