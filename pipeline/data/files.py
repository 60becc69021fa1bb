"""Files of data sources: on a disk, or wherever fsspec has a file system for (``s3://``, ``gs://``).

Paths in a run file are relative to it; URLs stand for themselves.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import PlanError
from pipeline.object_store import no_file_system

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class File:
    """A file of a listing."""

    name: str
    """Relative to the folder that was listed, with forward slashes."""
    size: int
    """Bytes."""
    tag: str = ""
    """What an object store says of its content, such as an ETag; empty on disks."""


def rooted(base: Path, path: str) -> str:
    """Return a path of a run file as it can be opened from anywhere."""
    return path if is_url(path) else str(base / path)


def is_url(path: str) -> bool:
    """Whether a path names a file system."""
    return "://" in path


def joined(folder: str, name: str) -> str:
    """Return the path of a file in a folder; a URL or an absolute path stands for itself."""
    if is_url(name) or (name.startswith("/") and not is_url(folder)):
        return name
    return f"{folder.rstrip('/')}/{name}"


def open_file(path: str) -> IO[bytes]:
    """Return a file, open for reading, that can seek."""
    system, inside = _system(path)
    opened: IO[bytes] = system.open(inside, "rb")
    return opened


def read(path: str) -> bytes:
    """Return the content of a file."""
    system, inside = _system(path)
    content: bytes = system.cat_file(inside)
    return content


def tag(path: str) -> str:
    """Return what an object store says of a file's content now, see `File.tag`."""
    system, inside = _system(path)
    # what was listed before is not what is there now
    system.invalidate_cache(system._parent(inside))
    return _tag(system.info(inside))


def is_folder(path: str) -> bool:
    """Whether there is a folder; of an object store, whether anything lies below it.

    Raises
    ------
    PlanError
        As `listing`.
    """
    system, inside = _system(path)
    with _reaching(path):
        return bool(system.isdir(inside))


def is_file(path: str) -> bool:
    """Whether there is a file.

    Raises
    ------
    PlanError
        As `listing`.
    """
    system, inside = _system(path)
    with _reaching(path):
        return bool(system.isfile(inside))


def below(folder: str, path: str) -> str | None:
    """Return the name of a path relative to a folder; None if it is not below it."""
    if is_url(folder) or is_url(path):
        top, inner = folder.rstrip("/") + "/", path.rstrip("/")
        return inner[len(top) :] if inner.startswith(top) else None
    within, inside = Path(path).resolve(), Path(folder).resolve()
    is_below = within != inside and within.is_relative_to(inside)
    return within.relative_to(inside).as_posix() if is_below else None


def listing(folder: str, *, is_deep: bool = False) -> list[File]:
    """Return the files in a folder, sorted by name; those of folders in it, too, if it is deep.

    One question, whatever the number of files; object stores answer a thousand at a time. There are
    none in a folder that is not there.

    Raises
    ------
    PlanError
        If a store cannot be reached, or does not say.
    """
    system, inside = _system(folder)
    inside = inside.rstrip("/")
    # of a bucket that is not there, or of a disk's folder
    with _reaching(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if isinstance(system, LocalFileSystem):
            top = os.stat(inside or "/")
            above = frozenset({(top.st_dev, top.st_ino)})
            found = _on_disk(inside or "/", "", is_deep=is_deep, above=above)
        else:
            found = _in_store(system, inside, is_deep=is_deep)
        return sorted(found, key=_name)
    return []


def forget(path: str) -> None:
    """Forget what was listed at and below a path, if its file system remembers."""
    system, inside = _system(path)
    system.invalidate_cache(inside)


def _on_disk(
    folder: str, prefix: str, *, is_deep: bool, above: frozenset[tuple[int, int]]
) -> Iterator[File]:
    """Yield files; links are followed, which fsspec does not, but not to a folder around them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield File(prefix + entry.name, entry.stat().st_size)
            elif is_deep and entry.is_dir():
                about = entry.stat()
                place = (about.st_dev, about.st_ino)
                if place not in above:
                    name = f"{prefix}{entry.name}/"
                    yield from _on_disk(entry.path, name, is_deep=True, above=above | {place})


def _in_store(system: Any, folder: str, *, is_deep: bool) -> Iterator[File]:
    found: dict[str, dict[str, Any]] = system.find(
        folder, maxdepth=None if is_deep else 1, withdirs=False, detail=True
    )
    for path, about in found.items():
        yield File(path[len(folder) + 1 :], int(about.get("size") or 0), _tag(about))


@contextlib.contextmanager
def _reaching(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # a store's file system is anybody's, and raises errors of its own for keys and addresses
        if not is_url(path):
            raise
        raise PlanError(
            f"cannot reach {path!r}: {type(error).__name__}: {error}",
            fix="check the address, the keys in the environment and the right to list; s3:// takes "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_ENDPOINT_URL for "
            "stores other than Amazon's",
            page="unreachable-data",
        ) from error


def _name(file: File) -> str:
    return file.name


def _tag(about: dict[str, Any]) -> str:
    return str(about.get("ETag") or about.get("etag") or about.get("md5Hash") or "").strip('"')


def _system(path: str) -> tuple[Any, str]:
    protocol = path.split("://", 1)[0] if is_url(path) else "file"
    system = _of_protocol(protocol)
    return system, system._strip_protocol(path)


def _of_protocol(protocol: str) -> Any:
    try:
        # made once by fsspec itself, which knows that those of a forked process are of no use
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise no_file_system(f"{protocol}:// paths", error) from error
