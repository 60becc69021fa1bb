"""Where a run is: a path of this machine, or a URL in an object store, told apart once."""

from __future__ import annotations

import os
from pathlib import Path, PurePath, PurePosixPath

SCHEME = "://"


class Url(PurePosixPath):
    """A URL that is joined and taken apart like a path.

    `pathlib` drops the second of two slashes; here it is put back whenever the URL is used.
    """

    def __str__(self) -> str:
        return super().__str__().replace(":/", SCHEME, 1)


def located(place: str | os.PathLike[str]) -> PurePath:
    """Return a path if a place is on a disk, and a `Url` if it is anywhere else."""
    text = os.fspath(place)
    if SCHEME not in text:
        return Path(text)
    protocol, inside = text.split(SCHEME, 1)
    return Path(inside) if protocol in ("file", "local") else Url(text)
