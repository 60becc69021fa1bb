"""What happened in a run, as its events tell: read from a file, or from objects in a store."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.ownership.lock import owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL = 0.2
"""Seconds between looks at a file that may grow."""
POLL_STORE = 2.0
"""Seconds between looks into an object store; events arrive there no faster."""


def events(folder: paths.Folder, *, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what happened in a run, oldest first.

    Parameters
    ----------
    folder
        The run's.
    follow
        Whether to wait for more while somebody works on the run.
    """
    read: Callable[[], Iterator[dict[str, Any]]]
    read = _File(folder).read if folder.is_local else _Objects(folder).read
    pause = POLL if folder.is_local else POLL_STORE
    while True:
        # asked first: what is told between this and its end is read still
        is_live = follow and _is_live(folder)
        yield from read()
        if not is_live:
            return
        time.sleep(pause)


class _File:
    """The lines of a file since it was last read."""

    def __init__(self, folder: paths.Folder) -> None:
        self._path = folder.at(paths.EVENTS)
        self._at = 0

    def read(self) -> Iterator[dict[str, Any]]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content.rfind(b"\n") + 1  # its writer may be in the middle of a line
        self._at += whole
        yield from _parsed(content[:whole])


class _Objects:
    """The lines of objects since they were last read; only the last one of a start grows."""

    def __init__(self, folder: paths.Folder) -> None:
        self._folder = folder
        self._seen: dict[str, int] = {}

    def read(self) -> Iterator[dict[str, Any]]:
        names = sorted(self._folder.entries(paths.EVENT_OBJECTS))
        done = set(list(self._seen)[:-1])
        wanted = [f"{paths.EVENT_OBJECTS}/{name}" for name in names]
        found = self._folder.read_all(name for name in wanted if name not in done)
        for name in sorted(found):
            content = found[name]
            yield from _parsed(content[self._seen.get(name, 0) :])
            self._seen[name] = len(content)


def _parsed(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield what lines say; not those of which a killed writer left a part."""
    for line in content.decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _is_live(folder: paths.Folder) -> bool:
    present = owner(folder.url)
    return present is not None and present.may_work
