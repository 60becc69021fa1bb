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
_SPECIAL = re.compile(r"[*?\[{]")
_PIECE = re.compile(r"(/?\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\])")
_HIDDEN = (".", "_")
"""How names begin of what is hidden, not finished yet (Spark) or left by a system (macOS)."""
_SHOWN = "(?![._])"
"""At the beginning of a name, that it is none of those."""
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
        if self.tag:
            return digests.of_file(files.File(self.name, self.size, self.tag))
        # its name is a part of where its samples are
        return digests.of_listing([files.File("", self.size)])


def matching(path: str, suffixes: Sequence[str]) -> list[Found]:
    """Return the files that a path means, sorted by name.

    Parameters
    ----------
    path
        A file; a folder, all files below which are meant that end in one of the suffixes; or a
        pattern: ``*`` and ``?`` stand for characters but ``/``, ``**`` for those too, ``[ab]`` for
        one of some, ``[!ab]`` for one that is none of them, ``{a,b}`` for one of some texts and
        ``{000..127}`` for numbers. What exists as it is written is meant as it is written. Names
        that begin with a point or an underscore, of files or folders, are only meant where they are
        written with it.
    suffixes
        Of files that are looked for in a folder, with their point.

    Raises
    ------
    PlanError
        If there is none, or one of those that braces name is missing.
    """
    folder, pattern = _split(path)
    if not pattern:
        return _of_path(path, suffixes)
    wanted = list(_expanded(pattern))
    if _is_web(path) and not any(_MAGIC.search(each) for each in wanted):
        # a web server lists no folders
        return sorted((_one(f"{folder}/{each}") for each in wanted), key=_name)
    return _of_patterns(path, folder, wanted)


def root_of(path: str, suffixes: Sequence[str]) -> str:
    """Return the folder that names of `matching` are relative to."""
    folder, pattern = _split(path)
    if pattern:
        return folder
    # folders, too, are called table.parquet
    has_suffix = path.lower().endswith(tuple(suffixes))
    if has_suffix and not files.is_folder(path):
        return path.rpartition("/")[0]
    return path.rstrip("/")


def _split(path: str) -> tuple[str, str]:
    """Return the folder that is there as it is written, and the pattern below it.

    The pattern is empty where all of the path is there, or could be. People's folders are called
    ``a[1]``, and one cannot tell what a run file below it means but by looking.
    """
    parts = path.split("/")
    for at, part in enumerate(parts):
        upto = "/".join(parts[: at + 1])
        is_last = at == len(parts) - 1
        if _SPECIAL.search(part) and (_is_web(path) or not _is_there(upto, is_last=is_last)):
            return "/".join(parts[:at]), "/".join(parts[at:])
    return path, ""


def _is_there(path: str, *, is_last: bool) -> bool:
    return files.is_folder(path) or (is_last and files.is_file(path))


def _is_web(path: str) -> bool:
    return path.startswith(("http://", "https://"))


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
        and not any(part.startswith(_HIDDEN) for part in file.name.split("/"))
    ]
    if not found:
        raise PlanError(
            f"the folder {path!r} holds no file ending in {', '.join(suffixes)}",
            fix="correct data.path, or name files with a pattern such as shards/*.tar; names that "
            "begin with a point or an underscore have to be written with it",
            page="no-samples",
        )
    return found


def _of_patterns(path: str, folder: str, wanted: Sequence[str]) -> list[Found]:
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
    """Return what matches the names that a pattern means, but not those that it does not show."""
    found = ""
    is_start = True
    for at, piece in enumerate(_PIECE.split(pattern)):
        if not piece:
            continue
        found += _of_piece(piece, is_start=is_start) if at % 2 else re.escape(piece)
        is_start = piece.endswith("/")
    return found


def _of_piece(piece: str, *, is_start: bool) -> str:
    shown = _SHOWN if is_start else ""
    if piece.endswith("**/"):
        return f"{'/' * piece.startswith('/')}(?:{_SHOWN}[^/]+/)*"
    if piece == "**":
        return f"{shown}(?:[^/]|/{_SHOWN})*"
    if piece == "*":
        return f"{shown}[^/]*"
    if piece == "?":
        return f"{shown}[^/]"
    is_negated = piece[1] in "!^"
    inside = re.sub(r"([\\\[\]&~|^])", r"\\\1", piece[1 + is_negated : -1])
    # what is written in brackets is written
    return f"{shown}[^/{inside}]" if is_negated else f"[{inside}]"


def _name(found: Found) -> str:
    return found.name
