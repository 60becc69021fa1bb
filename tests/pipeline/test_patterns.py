from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import pytest

from pipeline.data import patterns
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
