"""Pictures of 16 bits, which PIL cuts at 255 if nobody scales them, by every source of files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.data import samples
from tests.pipeline.pictured import png, read_all, source_of
from tests.pipeline.test_sources_webdataset import archive

if TYPE_CHECKING:
    from pathlib import Path

DEEP = np.uint16([[0, 256, 2**15], [2**15 + 256, 2**16 - 257, 2**16 - 1]])
EXPECTED = torch.tensor([[[0, 1, 128], [129, 254, 255]]]) / 255


def tiff() -> bytes:
    held = io.BytesIO()
    Image.fromarray(DEEP.astype(np.float32)).save(held, "TIFF")
    return held.getvalue()


def image_folder(base: Path, files: list[bytes]) -> None:
    (base / "data").mkdir()
    for at, (content, suffix) in enumerate(zip(files, ("png", "tif"), strict=True)):
        (base / "data" / f"{at}.{suffix}").write_bytes(content)


def parquet(base: Path, files: list[bytes]) -> None:
    pq.write_table(pa.table({"image": files}), base / "data.parquet")


def webdataset(base: Path, files: list[bytes]) -> None:
    archive(base / "data.tar", [("0.png", files[0]), ("1.tif", files[1])])


def huggingface(base: Path, files: list[bytes]) -> None:
    import datasets

    columns = {"image": [{"bytes": content, "path": None} for content in files]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(base / "data"))


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (image_folder, "data"),
        (parquet, "data.parquet"),
        (webdataset, "data.tar"),
        pytest.param(huggingface, "data", marks=pytest.mark.slow),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_16_bits_are_scaled_and_what_has_no_range_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any, path: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made(tmp_path, [png(DEEP), tiff()])
    good, bad = read_all(source_of(made.__name__, tmp_path, path, mode="gray"))
    assert torch.equal(good, EXPECTED)
    assert bad.startswith("unreadable: ValueError: the picture has the mode F")


def test_items_that_are_images_are_scaled_too() -> None:
    assert torch.equal(samples.input_of((Image.fromarray(DEEP), 0)), EXPECTED)
