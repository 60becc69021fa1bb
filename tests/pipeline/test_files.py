from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from pipeline.compare.comparing import _other_content
from pipeline.data import Record, digests, files
from pipeline.errors import PlanError
from pipeline.manifest import Manifest


def test_a_listing_is_sorted_and_holds_files_alone(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("c.txt", "b/a.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b" / "a.txt")
    flat = [files.File("a.txt", 5), files.File("c.txt", 5), files.File("link.txt", 7)]
    assert files.listing(str(tmp_path)) == flat
    deep = [flat[0], files.File("b/a.txt", 7), *flat[1:]]
    assert files.listing(f"{tmp_path}/", is_deep=True) == deep
    assert files.listing(f"file://{tmp_path}", is_deep=True) == deep
    assert files.listing(str(tmp_path / "missing")) == []
    assert files.listing(str(tmp_path / "a.txt")) == []


def test_links_to_folders_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a")
    (tmp_path / "images").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    found = files.listing(str(tmp_path / "images"), is_deep=True)
    assert [file.name for file in found] == ["cat/a.txt", "dog/a.txt"]


def test_a_file_system_in_memory_is_as_good_as_a_disk() -> None:
    with fsspec.open("memory://files/deep/a.txt", "wb") as file:
        file.write(b"abc")
    (found,) = files.listing("memory://files", is_deep=True)
    assert (found.name, found.size) == ("deep/a.txt", 3)
    assert files.read("memory://files/deep/a.txt") == b"abc"
    assert files.is_folder("memory://files/deep")
    assert files.is_file("memory://files/deep/a.txt")
    with files.open_file("memory://files/deep/a.txt") as opened:
        opened.seek(1)
        assert opened.read() == b"bc"
    fsspec.filesystem("memory").rm("/files", recursive=True)


def test_paths_are_joined_and_rooted() -> None:
    assert files.joined("s3://bucket/a/", "b/c.png") == "s3://bucket/a/b/c.png"
    assert files.joined("/data/a", "/other/b.csv") == "/other/b.csv"
    assert files.joined("/data/a", "s3://bucket/b.csv") == "s3://bucket/b.csv"
    assert files.rooted(Path("/runs"), "images") == "/runs/images"
    assert files.rooted(Path("/runs"), "gs://bucket/images") == "gs://bucket/images"


@pytest.mark.parametrize(
    ("folder", "path", "expected"),
    [
        ("s3://bucket/a", "s3://bucket/a/masks/", "masks"),
        ("s3://bucket/a", "s3://bucket/ab", None),
        ("s3://bucket/a", "/data/masks", None),
        ("data/a", "data/a/b/masks", "b/masks"),
        ("data/a", "data/a/../a/masks", "masks"),
        ("data/a", "data/masks", None),
        ("data/a", "data/a", None),
    ],
)
def test_what_lies_below_a_folder_is_known(folder: str, path: str, expected: str | None) -> None:
    assert files.below(folder, path) == expected


def test_a_file_system_that_nobody_has_is_refused() -> None:
    with pytest.raises(PlanError, match="cannot open nobody:// paths") as caught:
        files.read("nobody://bucket/a.txt")
    assert "xpipe-xai[s3]" in caught.value.fix


def test_digests_of_different_kinds_do_not_differ() -> None:
    assert digests.differ("size:1", "size:2")
    assert not digests.differ("size:1", "size:1")
    assert not digests.differ("size:1", "sha256:ab")
    assert not digests.differ(None, "size:1")


def test_samples_of_one_id_and_another_content_are_told() -> None:
    def run(*found: str | None) -> Any:
        records = [Record(n, f"s{n}", "", digest=digest) for n, digest in enumerate(found)]
        return SimpleNamespace(manifest=Manifest(records))

    assert list(_other_content(run("size:1", None), run("size:1", "size:9"))) == []
    (note,) = _other_content(run("size:1", "size:2", "size:3"), run("size:1", "size:9", "size:8"))
    assert note == "2 samples have the same id and another content, the first is 's1'"
