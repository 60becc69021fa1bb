"""Callbacks that cannot end a run: what they raise ends themselves, and what hangs is left."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.callbacks.listener import Opened
    from pipeline.events import Event

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 60.0
"""How long the end of a run waits for somebody who is behind, such as an upload."""
STUCK_SECONDS = 15.0
"""How long it waits for somebody who has not even come to the end of the run: one that cannot be
reached, and tries again and again."""
MAX_BEHIND = 10_000
"""Events that wait for somebody who hangs; some megabytes. Later ones are not told."""
_LOOK = 0.05
"""Seconds between looks at one that is behind."""


class Guarded:
    """Tells another until that raises, which is logged once.

    Parameters
    ----------
    name
        What it is called in messages.
    opened
        Who is told.
    """

    def __init__(self, name: str, opened: Opened) -> None:
        self._name = name
        self._opened: Opened | None = opened

    def __call__(self, event: Event) -> None:
        """Tell an event, unless an earlier one raised."""
        if self._opened is None:
            return
        try:
            self._opened(event)
        except Exception as error:  # a tracker that is down must not cost the results of a run
            self._drop(self._opened, error)

    def close(self) -> None:
        """Let it finish."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            opened.close()
        except Exception as error:  # as above
            _complain(self._name, "could not finish", error)

    def _drop(self, opened: Opened, error: Exception) -> None:
        self._opened = None
        _complain(self._name, "is told nothing else in this run", error)
        try:
            opened.close()
        except Exception:  # it has been said that it does not work
            logger.debug("callback %s could not be closed", self._name, exc_info=True)


class Apart:
    """Tells another in a thread of its own, so that one that is slow or hangs holds nobody up.

    Parameters
    ----------
    name
        What it is called in messages.
    opened
        Who is told; it is only used by that thread.
    patience
        Seconds that `close` waits in all.
    stuck
        Seconds of these that it waits for one that is told of one and the same event all the time,
        unless this is the last.
    """

    def __init__(
        self,
        name: str,
        opened: Opened,
        *,
        patience: float = CLOSE_SECONDS,
        stuck: float = STUCK_SECONDS,
    ) -> None:
        self._name = name
        self._patience = patience
        self._stuck = stuck
        self._n_told = 0
        self._guarded = Guarded(name, opened)
        self._events: queue.Queue[Event | None] = queue.Queue(MAX_BEHIND)
        self._is_behind = False
        # a daemon: a request that never returns must not keep the process
        self._thread = threading.Thread(target=self._tell, name=f"callback-{name}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Have an event told."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            if not self._is_behind:
                logger.warning("callback %s hangs; later events are not told to it", self._name)
            self._is_behind = True

    def close(self) -> None:
        """Wait until everything is told and finished, but not for ever."""
        started = time.monotonic()
        with contextlib.suppress(queue.Full):
            self._events.put(None, timeout=min(self._patience, self._stuck))
        told, since = self._n_told, started
        while self._thread.is_alive() and time.monotonic() - started < self._patience:
            self._thread.join(_LOOK)
            # one is left: the request to close, which nothing but the last event can be before
            if self._events.qsize() <= 1 or self._n_told != told:
                # the last event is being told, such as an upload; or another one was
                told, since = self._n_told, time.monotonic()
            elif time.monotonic() - since > self._stuck:
                break
        if self._thread.is_alive():
            logger.warning(
                "callback %s was not done %.3g s after the run and is left behind",
                self._name,
                time.monotonic() - started,
            )

    def _tell(self) -> None:
        while (event := self._events.get()) is not None:
            self._guarded(event)
            self._n_told += 1
        self._guarded.close()


def _complain(name: str, what: str, error: Exception) -> None:
    # one line: what it says is about somebody else's library, and the run is sound
    logger.warning("callback %s %s: %s: %s", name, what, type(error).__name__, error)
    logger.debug("callback %s", name, exc_info=error)
