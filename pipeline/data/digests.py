"""What tells a sample from another of the same name: its size, a store's tag, or its sha256.

A digest is text that begins with its kind:

- ``size:1024``: how long a file on a disk was. It tells some changes, and costs nothing.
- ``etag:1024:9003d1df...``: length, and what an object store says of the content.
- ``listing:9f86d081...``: of the names, sizes and tags of the files that hold many samples.
- ``sha256:9f86d081...``: of the content, or of the values where a sample is no file.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pipeline.data import files
from pipeline.inputs import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.data.source import Record
    from pipeline.inputs import Inputs

SIZE, TAG, LISTING, CONTENT = "size", "etag", "listing", "sha256"


class ChangedError(ValueError):
    """A sample is not what it was when the run was planned."""


def of_file(file: files.File) -> str:
    """Return the digest that a listing gives."""
    return f"{TAG}:{file.size}:{file.tag}" if file.tag else f"{SIZE}:{file.size}"


def of_listing(found: Iterable[files.File], *said: str) -> str:
    """Return the digest of files that hold many samples.

    Parameters
    ----------
    found
        The files, in order.
    said
        What else tells them from others, such as the shape of an array.
    """
    told = json.dumps([*said, *((file.name, file.size, file.tag) for file in found)])
    return f"{LISTING}:{hashlib.sha256(told.encode()).hexdigest()}"


def of_content(content: bytes) -> str:
    """Return the digest of a file's content."""
    return f"{CONTENT}:{hashlib.sha256(content).hexdigest()}"


def of_values(sample: Inputs) -> str:
    """Return the digest of a sample that is no file: of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, part in parts_of(sample).items():
        digest.update(f"{name} {part.dtype} {tuple(part.shape)}\n".encode())
        digest.update(part.contiguous().numpy().tobytes())
    return f"{CONTENT}:{digest.hexdigest()}"


def is_of_content(digest: str | None) -> bool:
    """Whether a digest stands for the content: if not, it is no part of what a run depends on.

    The size of a sample is not: files of one size differ, and runs that were begun before sizes
    were kept have to be the same runs still. That of a file of many samples is, for workers do not
    compare it, and nothing else tells that the file is another one.
    """
    return digest is not None and not digest.startswith(f"{SIZE}:")


def differ(one: str | None, other: str | None) -> bool:
    """Whether two digests tell that contents differ: those of different kinds do not."""
    if one is None or other is None or one.partition(":")[0] != other.partition(":")[0]:
        return False
    return one != other


def check_content(record: Record, content: bytes, path: str) -> None:
    """Refuse content that is not what was planned.

    Parameters
    ----------
    record
        Of the sample; one without a digest is not checked.
    content
        As it was read now.
    path
        Where it was read, to ask a store again for its tag.

    Raises
    ------
    ChangedError
        If it differs.
    """
    if record.digest is None:
        return
    kind, _, rest = record.digest.partition(":")
    if kind == CONTENT:
        _check(record.digest, of_content(content))
        return
    size, _, tag = rest.partition(":")
    if len(content) != int(size):
        raise ChangedError(_said(f"{len(content)} bytes, were {size}"))
    # the tag of most objects is their MD5; of what was sent in parts or is encrypted it is not,
    # and only the store can tell
    if tag and not _is_md5(tag, content):
        now = files.tag(path)
        if now != tag:
            raise ChangedError(_said(f"its tag is {now!r}, was {tag!r}"))


def check_values(record: Record, sample: Inputs) -> None:
    """Refuse values that are not what was planned.

    Raises
    ------
    ChangedError
        If they differ.
    """
    if record.digest is not None and record.digest.startswith(f"{CONTENT}:"):
        _check(record.digest, of_values(sample))


def _check(planned: str, now: str) -> None:
    if now != planned:
        raise ChangedError(_said(f"its {CONTENT} is {_short(now)}, was {_short(planned)}"))


def _short(digest: str) -> str:
    return f"{digest.partition(':')[2][:12]}..."


def _said(what: str) -> str:
    return f"changed since the run was planned: {what}"


def _is_md5(tag: str, content: bytes) -> bool:
    return tag == hashlib.md5(content, usedforsecurity=False).hexdigest()
