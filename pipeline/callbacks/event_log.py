"""Writes every event as a line of JSON."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

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
        line = json.dumps({"time": time.time(), **record(event)}, default=str)
        # opened each time: an event is rare, and a file left open would outlive the run
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
