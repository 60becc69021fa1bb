"""SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

logger = logging.getLogger(__name__)

STOPPING = "stopping after the shards in flight"
"""What a run prints when it is asked to end; in the log of a job, all that says so."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handlers for the time of a with block; outside the main thread it does nothing."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """Exit code of a program ended by the signal: 130 or 143."""
        return 0 if self.received is None else 128 + self.received

    def install(self) -> None:
        """Install the handlers, also over those that others have installed meanwhile."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def request(self, *, now: bool = False) -> None:
        """Ask for an end as a signal does, from any thread; at once only where there are handlers.

        A thread cannot be interrupted: a run outside the main thread ends in an orderly way.
        """
        if self.received is None:
            self._note(signal.SIGINT)
        if now and signal.getsignal(signal.SIGINT) == self._handle:
            os.kill(os.getpid(), signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self._note(number)

    def _note(self, number: int) -> None:
        self.received = number
        logger.warning("%s; once more stops now", STOPPING)

    def __enter__(self) -> Self:
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._previous.items():
            # None: a handler that was not installed from Python, and cannot be put back from it
            if handler is not None:
                signal.signal(number, handler)
