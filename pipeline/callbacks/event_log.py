"""Writes every event as a line of JSON."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.events import RunFinished, record

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.events import Callback, Event

logger = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds that an event waits for others before they are written to an object store together."""
FULL = 1 << 18
"""Bytes of an object after which the next one is begun: about a thousand events."""


def event_log(folder: paths.Folder, epoch: int) -> Callback:
    """Return what writes the events of a start into a run's folder."""
    if folder.is_local:
        from pathlib import Path

        return EventLog(Path(folder.at(paths.EVENTS)))
    return EventObjects(folder, epoch)


class EventLog:
    """Appends to a file, a line per event, each on the disk before the next thing happens.

    Parameters
    ----------
    path
        The file, for example ``events.jsonl`` in a run's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[str] = []

    def __call__(self, event: Event) -> None:
        """Write an event with the time, seconds since 1970, which is for people to read.

        On a disk that is full the lines wait for the next event: what ends the run then is the
        shard that fails, which says more.
        """
        self._waiting.append(_line(event))
        try:
            _append(self._path, "".join(self._waiting).encode())
        except OSError as error:
            logger.warning("events are not written yet: %s", error)
        else:
            self._waiting.clear()


class EventObjects:
    """Writes events to an object store, where nothing can be appended to.

    The last object is written again with what has happened since, `INTERVAL` seconds apart, until
    it is `FULL`; then the next one is begun. So there are few of them, each is whole at any time,
    and no shard waits for one. The end of a run is written before anything else happens.

    Parameters
    ----------
    folder
        The run's.
    epoch
        Which start this is; each has objects of its own.
    """

    def __init__(self, folder: paths.Folder, epoch: int) -> None:
        self._folder = folder
        self._epoch = epoch
        self._number = 0
        self._lines: list[str] = []
        self._turn = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self, event: Event) -> None:
        """Take an event; it is in the store within seconds, the end of the run at once."""
        with self._turn:
            self._lines.append(_line(event))
            if isinstance(event, RunFinished):
                if self._timer is not None:
                    self._timer.cancel()
                self._try()
            elif self._timer is None:
                self._timer = threading.Timer(INTERVAL, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def _flush(self) -> None:
        with self._turn:
            self._timer = None
            self._try()

    def _try(self) -> None:
        try:
            self._write()
        except StoreError as error:
            # they are kept, and are written with the next ones; a store that is full, or gone, is
            # told by the shard that it fails
            logger.warning("events are not written yet: %s", error.what)

    def _write(self) -> None:
        content = "".join(self._lines).encode()
        self._folder.write(paths.events_path(self._epoch, self._number), content)
        if len(content) >= FULL:
            self._number += 1
            self._lines.clear()


def _line(event: Event) -> str:
    return json.dumps({"time": time.time(), **record(event)}, default=str) + "\n"


def _append(path: Path, content: bytes) -> None:
    """Add all of it or nothing, on a line of its own."""
    # opened each time: an event is rare, and a file left open would outlive the run
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        left = memoryview(b"\n" + content if _is_torn(file) else content)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _is_torn(file: BinaryIO) -> bool:
    """Whether the last line has no end, as its writer was killed in the middle of it."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return False
    file.seek(size - 1)
    return file.read(1) != b"\n"
