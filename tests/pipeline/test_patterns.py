from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

import fsspec
import pytest

from pipeline.data import files, patterns
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a-000.tar", "a-001.tar", "a-010.tar", "b.tar", "c.tar.txt", "in/a-000.tar", "in/to/d.TAR")


@pytest.fixture(params=["disk", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"
    for name in NAMES:
        with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
            file.write(b"x" * len(name))
    return place


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["a-000.tar", "a-001.tar", "a-010.tar", "b.tar", "in/a-000.tar", "in/to/d.TAR"]),
        ("b.tar", ["b.tar"]),
        ("in", ["a-000.tar", "to/d.TAR"]),
        ("a-*.tar", ["a-000.tar", "a-001.tar", "a-010.tar"]),
        ("a-00?.tar", ["a-000.tar", "a-001.tar"]),
        ("[!a]*.tar", ["b.tar"]),
        ("[ab]*.tar", ["a-000.tar", "a-001.tar", "a-010.tar", "b.tar"]),
        ("*/a-000.tar", ["in/a-000.tar"]),
        ("**/a-000.tar", ["a-000.tar", "in/a-000.tar"]),
        ("a-{000..001}.tar", ["a-000.tar", "a-001.tar"]),
        ("{a-010,b}.tar", ["a-010.tar", "b.tar"]),
        ("in/{a-0*,to/d}.{tar,TAR}", None),
    ],
)
def test_a_path_means_files(base: str, path: str, expected: list[str] | None) -> None:
    whole = f"{base}/{path}" if path else base
    if expected is None:
        with pytest.raises(PlanError, match=r"no file a-0\*\.TAR, to/d\.tar in .* \(2 missing\)"):
            patterns.matching(whole, (".tar",))
        return
    found = patterns.matching(whole, (".tar",))
    assert [file.name for file in found] == expected
    root = patterns.root_of(whole, (".tar",))
    for file in found:
        assert file.path == f"{root}/{file.name}"
        with fsspec.open(file.path, "rb") as opened:
            assert len(opened.read()) == file.size


def test_numbers_keep_their_zeros_and_go_upwards(base: str) -> None:
    assert len(patterns.matching(f"{base}/a-{{000..001}}.tar", (".tar",))) == 2
    with pytest.raises(PlanError, match=r"a-002\.tar, .*a-006\.tar, \.\.\. in .* \(8 missing\)"):
        patterns.matching(f"{base}/a-{{001..009}}.tar", (".tar",))
    with pytest.raises(PlanError, match="smaller number first"):
        patterns.matching(f"{base}/a-{{9..1}}.tar", (".tar",))


def test_what_means_no_file_is_refused(base: str) -> None:
    for path in ("none.tar", "none", "x*.tar"):
        with pytest.raises(PlanError, match="there is no"):
            patterns.matching(f"{base}/{path}", (".tar",))
    with pytest.raises(PlanError, match=r"no file ending in \.zip"):
        patterns.matching(base, (".zip",))


def test_a_folder_may_be_called_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").mkdir()
    (tmp_path / "t.parquet" / "part-0.parquet").write_bytes(b"x")
    path = str(tmp_path / "t.parquet")
    (found,) = patterns.matching(path, (".parquet",))
    assert found.name == "part-0.parquet"
    assert found.path == f"{patterns.root_of(path, ('.parquet',))}/part-0.parquet"


HIDDEN = ("_a.tar", ".a.tar", "_tmp/b.tar", "in/.tmp/c.tar", "in/_c.tar", "in/d.tar", "e_.f.tar")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["e_.f.tar", "in/d.tar"]),
        ("*.tar", ["e_.f.tar"]),
        ("?a.tar", None),
        ("[!x]*.tar", ["e_.f.tar"]),
        ("**/*.tar", ["e_.f.tar", "in/d.tar"]),
        ("**.tar", ["e_.f.tar", "in/d.tar"]),
        ("in/**/?*.tar", ["d.tar"]),
        ("_*.tar", ["_a.tar"]),
        ("[._]a.tar", [".a.tar", "_a.tar"]),
        ("**/_*.tar", ["_a.tar", "in/_c.tar"]),
        ("in/.tmp/*", ["c.tar"]),
        ("{_a,.a}.tar", [".a.tar", "_a.tar"]),
        ("_tmp", ["b.tar"]),
        ("_a.tar", ["_a.tar"]),
    ],
)
def test_what_is_hidden_is_meant_where_it_is_written(
    tmp_path: Path, path: str, expected: list[str] | None
) -> None:
    for name in HIDDEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    whole = f"{tmp_path}/{path}".rstrip("/")
    if expected is None:
        with pytest.raises(PlanError, match="there is no file"):
            patterns.matching(whole, (".tar",))
        return
    assert [file.name for file in patterns.matching(whole, (".tar",))] == expected


@pytest.mark.parametrize(
    "text", ["[!1]*", "[!a-c]*", "[^1]*", "a[!b]", "[]x]", "[[]x", "[a^]", "a[*]"]
)
def test_brackets_are_those_of_fnmatch(text: str) -> None:
    names = [f"{one}{two}" for one in "abc1x]^[*!-" for two in ("", *"bcx]^*-")]
    matches = re.compile(patterns._regex(text)).fullmatch
    # which knows no ^ in brackets
    expected = fnmatch.filter(names, text.replace("[^1", "[!1"))
    assert [name for name in names if matches(name)] == expected


@pytest.mark.parametrize("folder", ["a[1]", "{a,b}", "[ab]", "why?", "a*"])
def test_what_is_there_as_it_is_written_is_meant(base: str, folder: str) -> None:
    top = f"{base}/{folder}/run"
    for name in ("x-0.tar", "x-1.tar", "y[0].tar"):
        with fsspec.open(f"{top}/{name}", "wb", auto_mkdir=True, expand=False) as file:
            file.write(b"x")
    for path, expected in [
        ("", ["x-0.tar", "x-1.tar", "y[0].tar"]),
        ("/x-*.tar", ["x-0.tar", "x-1.tar"]),
        ("/x-{0..1}.tar", ["x-0.tar", "x-1.tar"]),
        ("/x-0.tar", ["x-0.tar"]),
        ("/y[0].tar", ["y[0].tar"]),
    ]:
        found = patterns.matching(f"{top}{path}", (".tar",))
        assert [file.name for file in found] == expected
        assert patterns.root_of(f"{top}{path}", (".tar",)) == top
        assert all(file.path == f"{top}/{file.name}" for file in found)
        assert all(files.read(file.path) == b"x" for file in found)
