from __future__ import annotations

import errno
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pipeline import paths
from pipeline.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> paths.Folder:
    url = tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}/run"
    return paths.Folder(url)


def test_what_is_written_is_read_listed_hashed_and_removed(folder: paths.Folder) -> None:
    digest = folder.write("a/b/c.bin", b"content")
    assert digest == hashlib.sha256(b"content").hexdigest() == folder.digest("a/b/c.bin")
    assert folder.read("a/b/c.bin") == b"content"
    assert folder.files() == ["a/b/c.bin"]
    assert folder.entries("a") == ["b"]
    assert folder.exists("a/b/c.bin")
    folder.write("a/b/c.bin", b"other")
    assert folder.read("a/b/c.bin") == b"other"
    folder.remove("a")
    folder.remove("a")
    assert folder.files() == folder.entries("a") == []


def test_only_the_first_creates(folder: paths.Folder) -> None:
    assert folder.create("x.json", b"first")
    assert not folder.create("x.json", b"second")
    assert folder.read("x.json") == b"first"
    assert folder.files() == ["x.json"]


def test_of_many_threads_that_create_one_does(tmp_path: Path) -> None:
    folder = paths.Folder(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: folder.create("x", str(n).encode()), range(64)))
    assert sum(won) == 1
    assert folder.read("x") == str(won.index(True)).encode()


@pytest.mark.parametrize(("method", "place"), [("write", "replace"), ("create", "link")])
def test_content_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, place: str
) -> None:
    calls: list[str] = []
    sync, put = os.fsync, getattr(os, place)

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("folder" if is_folder else "file")
        sync(descriptor)

    def place_it(source: str, target: str) -> None:
        calls.append("place")
        put(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, place, place_it)
    getattr(paths.Folder(tmp_path), method)("a/b/c", b"content")
    # New folders a and b are entries of their parents, which have to last too.
    assert calls == ["folder", "folder", "file", "place", "folder"]


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_full_disk_leaves_nothing_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    folder = paths.Folder(tmp_path / "run")
    folder.write("old", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        getattr(folder, method)("new", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert folder.files() == ["old"]


def test_a_copy_of_a_remote_file_is_given_for_a_while(folder: paths.Folder) -> None:
    folder.write("run.yaml", b"name: x")
    with folder.local("run.yaml") as path, open(path, "rb") as file:
        assert file.read() == b"name: x"
    assert os.path.exists(path) == folder.is_local
