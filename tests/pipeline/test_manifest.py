from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.data import Record
from pipeline.errors import PlanError, StoreError
from pipeline.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = [
    Record(0, "a", "a.png", 3, "a.png"),
    Record(1, "b", "b.png"),
    Record(2, "c", "c.png", 0, None, 7),
]


def test_a_manifest_survives_parquet(tmp_path: Path) -> None:
    manifest = Manifest(RECORDS)
    manifest.write(str(tmp_path / "manifest.parquet"))
    again = Manifest.read(str(tmp_path / "manifest.parquet"))
    assert again == manifest
    assert list(again) == RECORDS
    assert again.digest() == manifest.digest()


def test_slices_are_records() -> None:
    manifest = Manifest(RECORDS)
    assert manifest.slice(1, 3) == RECORDS[1:]
    assert manifest.slice(3, 3) == []
    assert len(manifest) == 3


def test_columns_are_at_hand() -> None:
    manifest = Manifest(RECORDS)
    assert manifest.labels.tolist() == [3, -1, 0]
    assert manifest.sample_ids == ["a", "b", "c"]
    assert manifest.n_masks == 1


@pytest.mark.parametrize(
    "change",
    [{"sample_id": "z"}, {"source": "z"}, {"label": 1}, {"mask": "z"}, {"length": 1}],
)
def test_every_field_is_in_the_digest(change: dict[str, object]) -> None:
    changed = [RECORDS[0], replace(RECORDS[1], **change), RECORDS[2]]  # type: ignore[arg-type]
    assert Manifest(changed).digest() != Manifest(RECORDS).digest()


def test_a_manifest_can_be_pickled_and_be_empty() -> None:
    assert pickle.loads(pickle.dumps(Manifest(RECORDS))) == Manifest(RECORDS)
    assert list(Manifest([])) == []


def test_an_index_that_is_no_position_is_refused() -> None:
    with pytest.raises(PlanError, match="not numbered"):
        Manifest(RECORDS[1:])


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="two samples have the id 'a'"):
        Manifest([RECORDS[0], replace(RECORDS[1], sample_id="a")])


@pytest.mark.parametrize("content", [None, b"not parquet"])
def test_a_missing_or_broken_file_is_a_store_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "manifest.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot read the manifest"):
        Manifest.read(str(path))
