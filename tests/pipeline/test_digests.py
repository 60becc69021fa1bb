from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.config import DataConfig, load
from pipeline.data import Record, Source, digests, read_batch, select_records
from pipeline.errors import RunConflictError
from pipeline.manifest import Manifest
from pipeline.run import run
from tests.pipeline.test_sources_images import folder, picture, save
from tests.pipeline.tiny_run import write_run

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = DataConfig(source="image_folder", digests="content")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(3):
        save(tmp_path / "images" / f"{index}.png", picture(index))
    return tmp_path / "images"


def statuses(source: Source, records: list[Record]) -> dict[int, str]:
    return read_batch(source, records, (3, 20, 30))[2]


def test_a_listing_gives_sizes(images: Path) -> None:
    found = [record.digest for record in folder(images.parent).records()]
    assert found == [f"size:{file.stat().st_size}" for file in sorted(images.iterdir())]


def test_names_of_a_table_have_the_sizes_of_their_files(images: Path) -> None:
    (images / "labels.csv").write_text("file,index\n./1.png,0\nmissing.png,1\n")
    first, second = folder(images.parent).records()
    assert first.digest == f"size:{(images / '1.png').stat().st_size}"
    assert second.digest is None


def test_content_is_the_sha256_of_the_file(images: Path) -> None:
    source = folder(images.parent)
    found = select_records(CONTENT, source.records(), 0, source)
    expected = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(images.iterdir())]
    assert [record.digest for record in found] == [f"sha256:{each}" for each in expected]
    assert statuses(source, found) == {}
    # a look at the samples reads none
    assert select_records(CONTENT, source.records(), 0) == source.records()


def test_what_has_another_size_has_changed(images: Path) -> None:
    source = folder(images.parent)
    records = source.records()
    before = (images / "1.png").stat().st_size
    with (images / "1.png").open("ab") as file:
        file.write(b"xy")
    expected = f"changed since the run was planned: {before + 2} bytes, were {before}"
    assert statuses(source, records) == {1: expected}


def test_what_has_other_bytes_has_changed(images: Path) -> None:
    source = folder(images.parent)
    records = select_records(CONTENT, source.records(), 0, source)
    content = bytearray((images / "2.png").read_bytes())
    # the last byte of the checksum of the end, which decoders pass over
    content[-1] ^= 1
    (images / "2.png").write_bytes(content)
    assert statuses(source, source.records()) == {}
    (found,) = statuses(source, records).items()
    assert found[0] == 2
    assert found[1].startswith("changed since the run was planned: its sha256 is ")


def test_what_cannot_be_read_has_no_digest_and_its_status(images: Path) -> None:
    source = folder(images.parent)
    listed = source.records()
    (images / "0.png").unlink()
    records = select_records(CONTENT, listed, 0, source)
    assert [record.digest is None for record in records] == [True, False, False]
    assert statuses(source, records)[0].startswith("unreadable: FileNotFoundError")


@dataclass(frozen=True)
class Values(Source):
    """A source that has no files."""

    shift: float = 0.0

    def records(self) -> list[Record]:
        return [Record(index, f"s{index}", str(index)) for index in range(4)]

    def load(self, record: Record) -> torch.Tensor:
        if record.index == 3:
            raise OSError("truncated")
        return torch.full((1, 2, 2), record.index + (self.shift if record.index == 1 else 0.0))


def test_values_stand_for_samples_that_are_no_files() -> None:
    records = select_records(CONTENT, Values().records(), 0, Values())
    assert [record.digest is None for record in records] == [False, False, False, True]
    assert len({record.digest for record in records}) == 4
    _, rows, failures = read_batch(Values(), records, (1, 2, 2))
    assert (rows, list(failures)) == ([0, 1, 2], [3])
    _, rows, failures = read_batch(Values(0.5), records, (1, 2, 2))
    assert (rows, list(failures)) == ([0, 2], [1, 3])
    assert failures[1].startswith("changed since the run was planned: its sha256 is ")


def test_values_differ_by_type_shape_and_name() -> None:
    flat = torch.arange(4.0)
    found = [
        digests.of_values(each)
        for each in (flat, flat.reshape(2, 2), flat.to(torch.int64), {"a": flat}, {"b": flat})
    ]
    assert len(set(found)) == 5
    # strides are no part of the values
    turned = flat.reshape(2, 2).t()
    assert digests.of_values(turned) == digests.of_values(turned.contiguous())


def test_content_counts_in_the_digest_of_a_manifest_and_sizes_do_not() -> None:
    plain = [Record(0, "a", "a.png"), Record(1, "b", "b.png")]

    def of(*found: str | None) -> str:
        pairs = zip(plain, found, strict=True)
        return Manifest([replace(record, digest=digest) for record, digest in pairs]).digest()

    none = of(None, None)
    assert of("size:1", "size:2") == none
    different = [none, of("sha256:ab", None), of(None, "sha256:ab"), of("etag:3:ab", "etag:3:cd")]
    assert len(set(different)) == 4
    assert of("sha256:ab", "size:2") == of("sha256:ab", None)


def test_a_manifest_of_an_earlier_version_is_read_and_has_the_digest_it_had(
    tmp_path: Path,
) -> None:
    # as version 0.9 wrote it and took its digest
    records = [Record(0, "a", "a.png", 3, "a.png"), Record(1, "b", "b.png", length=2)]
    path = tmp_path / "manifest.parquet"
    pq.write_table(Manifest(records).table.drop_columns("digest"), path)
    again = Manifest.read(str(path))
    assert list(again) == records
    text = (
        'index:[0,1]\nsample_id:["a","b"]\nsource:["a.png","b.png"]\nlabel:[3,-1]\n'
        'mask:["a.png",null]\nlength:[null,2]\n'
    )
    assert again.digest() == hashlib.sha256(text.encode()).hexdigest()
    with_sizes = [replace(record, digest="size:1") for record in records]
    assert Manifest(with_sizes).digest() == again.digest()


def test_digests_survive_parquet(tmp_path: Path) -> None:
    records = [Record(0, "a", "a", digest="etag:3:ab"), Record(1, "b", "b")]
    Manifest(records).write(str(tmp_path / "manifest.parquet"))
    assert list(Manifest.read(str(tmp_path / "manifest.parquet"))) == records


@pytest.mark.slow
def test_a_run_does_not_go_on_with_pictures_of_other_sizes(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / "pictures" / f"{index}.png", picture(index, (8, 8))[..., 0])
    (tmp_path / "run").mkdir()
    given = {"source": "image_folder", "path": "../pictures", "mode": "gray", "labels": "none"}
    run_file = write_run(tmp_path / "run", explainers={"saliency": {}})
    sections = yaml.safe_load(run_file.read_text()) | {"data": given}
    run_file.write_text(yaml.safe_dump(sections))
    assert run(load(run_file)).exit_code == 0
    written = (tmp_path / "run" / "out" / "manifest.parquet").read_bytes()
    with (tmp_path / "pictures" / "2.png").open("ab") as file:
        file.write(b"xy")
    with pytest.raises(RunConflictError, match=r"1 samples have changed .* '2\.png'"):
        run(load(run_file))
    assert (tmp_path / "run" / "out" / "manifest.parquet").read_bytes() == written
