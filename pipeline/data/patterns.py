"""The files that a path in a run file means: one file, a folder, a glob, or numbered ones."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec

from pipeline.data import digests, files
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC = re.compile(r"[*?\[]")
_N_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a pattern means."""

    path: str
    """To open it with."""
    name: str
    """Relative to the folder that all of them are in, with forward slashes."""
    size: int
    """Bytes."""
    tag: str = ""
    """What an object store says of its content; empty on disks."""

    @property
    def digest(self) -> str:
        """What the samples in it are told from others by; see `digests`."""
        return digests.of_file(files.File(self.name, self.size, self.tag))


def matching(path: str, suffixes: Sequence[str]) -> list[Found]:
    """Return the files that a path means, sorted by name.

    Parameters
    ----------
    path
        A file; a folder, all files below which are meant that end in one of the suffixes; or a
        pattern: ``*`` and ``?`` stand for characters but ``/``, ``**`` for those too, ``[ab]`` for
        one of some, ``{a,b}`` for one of some texts and ``{000..127}`` for numbers.
    suffixes
        Of files that are looked for in a folder, with their point.

    Raises
    ------
    PlanError
        If there is none, or one of those that braces name is missing.
    """
    plain = list(_expanded(path))
    has_magic = any(_MAGIC.search(each) for each in plain)
    if len(plain) == 1 and not has_magic:
        return _of_path(path, suffixes)
    if path.startswith(("http://", "https://")) and not has_magic:
        # a web server lists no folders
        return sorted((_one(each) for each in plain), key=_name)
    return _of_patterns(path, plain)


def root_of(path: str, suffixes: Sequence[str]) -> str:
    """Return the folder that names of `matching` are relative to."""
    head = re.split(r"[*?\[{]", path, maxsplit=1)[0]
    # folders, too, are called table.parquet
    has_suffix = path.lower().endswith(tuple(suffixes))
    if head == path and not (has_suffix and not files.is_folder(path)):
        return path.rstrip("/")
    return head.rpartition("/")[0]


def _of_path(path: str, suffixes: Sequence[str]) -> list[Found]:
    if path.lower().endswith(tuple(suffixes)) and files.is_file(path):
        return [_one(path)]
    if not files.is_folder(path):
        raise PlanError(
            f"there is no folder, and no file ending in {', '.join(suffixes)}, {path!r}",
            fix="correct data.path; it is relative to the run file",
            page="no-such-data",
        )
    found = [
        Found(files.joined(path, file.name), file.name, file.size, file.tag)
        for file in files.listing(path, is_deep=True)
        if file.name.lower().endswith(tuple(suffixes))
    ]
    if not found:
        raise PlanError(
            f"the folder {path!r} holds no file ending in {', '.join(suffixes)}",
            fix="correct data.path, or name files with a pattern such as shards/*.tar",
            page="no-samples",
        )
    return found


def _of_patterns(path: str, plain: Sequence[str]) -> list[Found]:
    folder = root_of(path, ())
    wanted = [each[len(folder) + 1 :] for each in plain]
    is_deep = any("/" in each or "**" in each for each in wanted)
    known = files.listing(folder or "/", is_deep=is_deep) if files.is_folder(folder or "/") else []
    found: dict[str, Found] = {}
    missing: list[str] = []
    for pattern in wanted:
        matches = re.compile(_regex(pattern)).fullmatch
        some = [file for file in known if matches(file.name)]
        if not some:
            missing.append(pattern)
        for file in some:
            place = files.joined(folder, file.name)
            found[file.name] = Found(place, file.name, file.size, file.tag)
    if missing:
        shown = ", ".join(missing[:_N_SHOWN]) + (", ..." if len(missing) > _N_SHOWN else "")
        raise PlanError(
            f"{path!r}: there is no file {shown} in {folder!r} ({len(missing)} missing)",
            fix="correct data.path; it is relative to the run file",
            page="no-such-data",
        )
    return sorted(found.values(), key=_name)


def _one(path: str) -> Found:
    try:
        system, inside = fsspec.core.url_to_fs(path)
        about: dict[str, Any] = system.info(inside)
    except FileNotFoundError as error:
        raise PlanError(
            f"there is no file {path!r}",
            fix="correct data.path; it is relative to the run file",
            page="no-such-data",
        ) from error
    tag = str(about.get("ETag") or about.get("etag") or "").strip('"')
    return Found(path, path.rpartition("/")[2], int(about.get("size") or 0), tag)


def _expanded(path: str) -> Iterator[str]:
    """Yield the texts that braces stand for, in order."""
    parts = _BRACES.split(path)
    choices = [[part] if at % 2 == 0 else _choices(part) for at, part in enumerate(parts)]
    yield from map("".join, itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    if int(last) < int(first):
        raise PlanError(
            f"got {{{inside}}}, expected the smaller number first", fix="correct data.path"
        )
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _regex(pattern: str) -> str:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    meant = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        meant.get(piece) or (piece if at % 2 else re.escape(piece))
        for at, piece in enumerate(pieces)
    )


def _name(found: Found) -> str:
    return found.name
