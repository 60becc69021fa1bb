"""Finished shards are written by a thread while the next one is computed."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_WAITING = 2
"""Shards in memory beside the one that is computed: one being written, one waiting."""


class Writer:
    """One thread and a bounded queue: `submit` waits when the store is slower than the work."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._room = threading.BoundedSemaphore(MAX_WAITING)

    def submit(self, write: Callable[[], T]) -> Future[T]:
        """Have something written; its result, or what it raises, is the future's."""
        self._room.acquire()
        future = self._executor.submit(write)
        future.add_done_callback(self._release)
        return future

    def close(self) -> None:
        """Wait for what is being written."""
        self._executor.shutdown()

    def _release(self, _: Future[T]) -> None:
        self._room.release()
