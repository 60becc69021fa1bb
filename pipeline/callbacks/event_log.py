"""Writes every event as a line of JSON."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, BinaryIO

from pipeline.events import record

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.events import Event


class EventLog:
    """Appends to a file, a line per event, each on the disk before the next thing happens.

    Parameters
    ----------
    path
        The file, for example ``events.jsonl`` in a run's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Write an event with the time, seconds since 1970, which is for people to read."""
        line = json.dumps({"time": time.time(), **record(event)}, default=str) + "\n"
        # opened each time: an event is rare, and a file left open would outlive the run
        with self._path.open("ab+") as file:
            file.write(("\n" + line if _is_torn(file) else line).encode())
            file.flush()
            os.fsync(file.fileno())


def _is_torn(file: BinaryIO) -> bool:
    """Whether the last line has no end, as its writer was killed in the middle of it."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return False
    file.seek(size - 1)
    return file.read(1) != b"\n"
