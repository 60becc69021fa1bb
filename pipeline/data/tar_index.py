"""Where the members of a tar archive are, so that each can be read by itself."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.data import files
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.patterns import Found

logger = logging.getLogger(__name__)

_VERSION = 2
"""Of what is kept; another one is read anew."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
"""How files begin."""

_N_READ = 2**20
"""Bytes behind the end that are looked at together."""


@dataclass(frozen=True)
class TarIndex:
    """The files in an archive, in order."""

    names: list[str]
    starts: list[int]
    """Of the content of each, in bytes from the archive's start."""
    sizes: list[int]
    texts: dict[str, str]
    """What small members say, by position; those that were asked for."""
    problem: str = ""
    """Why the archive could not be read to its end."""


def extension(name: str) -> str:
    """Return what is behind the first point of a file's name, in lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def index_of(file: Found, kept: Sequence[str]) -> TarIndex:
    """Return where the members of an archive are.

    Headers are spread over the whole archive, so that finding them in an object store means reading
    it once. What is found is kept in the user's cache, under a name that is made of the archive's
    place, size and tag (on a disk, when it was changed); not beside the archive, where others who
    use the data would have to trust it.

    Parameters
    ----------
    file
        The archive.
    kept
        Extensions of members whose text is wanted, such as ``cls``.

    Raises
    ------
    PlanError
        If it is no tar archive, or a compressed one.
    """
    place = _cache(file, kept)
    known = None if place is None else _read(place)
    if known is not None:
        return known
    found = _scanned(file, kept)
    if place is not None:
        _write(place, found)
    return found


def _scanned(file: Found, kept: Sequence[str]) -> TarIndex:
    found = TarIndex([], [], [], {})
    problem = ""
    try:
        with files.open_file(file.path) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            try:
                for member in tar:
                    if not member.isreg():
                        continue
                    if extension(member.name) in kept:
                        opened.seek(member.offset_data)
                        text = opened.read(member.size).decode("utf-8", "replace")
                        found.texts[str(len(found.names))] = text
                    found.names.append(member.name)
                    found.starts.append(member.offset_data)
                    found.sizes.append(member.size)
                problem = _behind(opened, tar.offset)
            except (tarfile.TarError, EOFError) as error:
                problem = str(error)
    except (tarfile.TarError, EOFError) as error:
        raise PlanError(
            f"cannot read {file.path!r} as a tar archive: {_reason(file, error)}",
            fix="unpack it if it is compressed (members of compressed archives cannot be read one "
            "by one), or leave it out of data.path",
            page="unreadable-data-file",
        ) from error
    if problem:
        # what came before is as good as ever; a member that is cut fails when it is read
        problem = f"ends early after {len(found.names)} files: {problem}"
    return TarIndex(found.names, found.starts, found.sizes, found.texts, problem)


def _behind(opened: IO[bytes], offset: int) -> str:
    """Return what is wrong behind the last member; empty if the archive ends there, as it should.

    The library takes a header that is broken, cut or missing for the end of the archive. An end is
    a block of zeros, of which writers put two, and nothing but zeros behind it (POSIX.1-2017, pax).
    """
    opened.seek(offset)
    block = opened.read(tarfile.BLOCKSIZE)
    if not block:
        return "it has no mark of its end, so that files may be missing"
    if len(block) < tarfile.BLOCKSIZE:
        return f"the header at byte {offset} is cut"
    if any(block):
        return f"at byte {offset} is neither the header of a file nor the end of the archive"
    while block := opened.read(_N_READ):
        if block.strip(b"\0"):
            return f"more follows the mark of its end at byte {offset}"
    return ""


def _reason(file: Found, error: Exception) -> str:
    with files.open_file(file.path) as opened:
        start = opened.read(max(map(len, _COMPRESSED)))
    kinds = [kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)]
    return f"it is compressed by {kinds[0]}" if kinds else str(error)


def _cache(file: Found, kept: Sequence[str]) -> Path | None:
    """Return where the index of an archive is kept; None where a change of it would go unseen."""
    tag = file.tag
    if not files.is_url(file.path):
        about = os.stat(file.path)
        tag = f"{about.st_mtime_ns}/{about.st_ino}"
    if not tag:
        return None
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    said = json.dumps([_VERSION, file.path, file.size, tag, sorted(kept)])
    return Path(folder, "xpipe", "tars", f"{hashlib.sha256(said.encode()).hexdigest()}.json")


def _read(place: Path) -> TarIndex | None:
    try:
        return TarIndex(**json.loads(place.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(place: Path, found: TarIndex) -> None:
    temporary = place.with_suffix(f".{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
        os.replace(temporary, place)
    except OSError as error:
        # it is found again next time
        logger.debug("cannot keep the index of an archive in %s: %s", place, error)
