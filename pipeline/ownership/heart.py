"""A thread of the driver: tells that it lives, hears who asks it to stop, sees who took over."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Self

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.ownership import claims, lock

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from pipeline.interrupts import Interrupts
    from pipeline.ownership.owner import Owner

logger = logging.getLogger(__name__)

LISTEN = 1.0
"""Seconds between looks at a folder on a disk; in an object store it is `claims.BEAT`."""
PATIENCE = 10.0
"""Seconds that the end of a run waits for a request of this thread."""


def ask_to_stop(path: str | os.PathLike[str], present: Owner, *, now: bool) -> None:
    """Leave a request in a run's folder that its owner, wherever it is, finds within seconds.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    content = json.dumps({"now": now}).encode()
    paths.Folder(path).write(_request(present.epoch), content)


class Heart:
    """Beats for the time of a with block.

    Parameters
    ----------
    path
        The run's folder.
    mine
        This start, as it owns the folder.
    interrupts
        Told when the run is to stop.
    """

    def __init__(self, path: str | os.PathLike[str], mine: Owner, interrupts: Interrupts) -> None:
        self._folder = paths.Folder(path)
        self._mine = mine
        self._interrupts = interrupts
        self._ended = threading.Event()
        self._count = 0
        self._is_hurried = False
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(PATIENCE)
        # what it fails by has ended the run already; no other start takes the request for its own
        with contextlib.suppress(StoreError):
            self._folder.remove(_request(self._mine.epoch))

    def _beat(self) -> None:
        pause = LISTEN if self._folder.is_local else claims.BEAT
        is_silent = False
        while not self._ended.is_set():
            try:
                self._once()
                is_silent = False
            except StoreError as error:
                if not is_silent:
                    logger.warning("the run's folder does not answer: %s", error.what)
                is_silent = True
            except FileNotFoundError:
                pass  # the folder is being removed; the next shard will say so
            self._ended.wait(pause)

    def _once(self) -> None:
        self._count += 1
        if not self._folder.is_local:
            claims.beat(self._folder, self._mine, self._count)
        present = lock.owner(self._folder.url)
        if present is not None and present.epoch > self._mine.epoch:
            if self._interrupts.received is None:
                logger.warning(
                    "%s was taken over by process %s on %r; this start ends",
                    self._folder.url,
                    present.pid,
                    present.host,
                )
            self._interrupts.request()
            return
        asked = self._asked()
        if asked is not None:
            is_urgent = bool(asked.get("now")) and not self._is_hurried
            self._is_hurried |= is_urgent  # once: what cleans up is not to be disturbed again
            self._interrupts.request(now=is_urgent)

    def _asked(self) -> dict[str, Any] | None:
        try:
            asked = json.loads(self._folder.read(_request(self._mine.epoch)))
        except (FileNotFoundError, ValueError):
            return None
        return asked if isinstance(asked, dict) else {}


def _request(epoch: int) -> str:
    """Where a start is asked to stop; a later one does not take it for itself."""
    return f"{paths.STOP}/{epoch}.json"
