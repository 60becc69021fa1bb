"""The engine without workers: the same tasks, one shard after the other, in this process."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pipeline.engine import Engine, Settings, engines
from pipeline.engine.queue import Queue
from pipeline.task import Outcome, ShardError, Task, Worker, WorkItem
from pipeline.threads import computing_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_WRITING = 2
"""Items whose writing may be unfinished; as many as an actor has in flight."""


@engines.register("serial")
class SerialEngine(Engine):
    """One worker in this process; thread counts are put back at the end."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._worker: Worker | None = None

    def start(self) -> None:
        """Do nothing: there is no platform to start."""

    def map(
        self,
        task: Task,
        items: Iterable[WorkItem],
        *,
        on_outcome: Callable[[Outcome], None],
        stop: Callable[[], bool],
    ) -> list[Outcome]:
        """Do one item after the other; writing overlaps the next one."""
        queue = Queue(items, on_outcome)
        with computing_threads(self.settings.threads):
            before = self._worker
            # before the old one is closed, so that they can share what takes long to make
            self._worker = task.open("serial")
            if before is not None:
                before.close()
            _drain(self._worker, queue, stop)
        return queue.outcomes

    def close(self) -> None:
        """Close the worker."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def _drain(worker: Worker, queue: Queue, stop: Callable[[], bool]) -> None:
    writing: deque[tuple[WorkItem, Future[Outcome]]] = deque()
    while not (stop() or queue.is_fatal):
        item = queue.take()
        if item is None:
            if not writing:
                return
        else:
            result = _attempt(worker, item)
            if isinstance(result, Future):
                writing.append((item, result))
            else:
                queue.settle(result)
        while writing and (item is None or len(writing) >= MAX_WRITING or writing[0][1].done()):
            queue.settle(_wait(*writing.popleft()))
    while writing:
        queue.settle(_wait(*writing.popleft()))


def _attempt(worker: Worker, item: WorkItem) -> Outcome | Future[Outcome]:
    started = time.monotonic()
    try:
        return worker(item)
    except Exception as error:  # user code may raise anything; it is reported, not dropped
        return _failed(item, error, time.monotonic() - started)


def _wait(item: WorkItem, written: Future[Outcome]) -> Outcome:
    try:
        return written.result()
    except Exception as error:  # likewise
        return _failed(item, error)


def _failed(item: WorkItem, error: Exception, seconds: float = 0.0) -> Outcome:
    record = ShardError.of(error, item.shard)
    return Outcome(item, "failed", seconds=seconds, worker="serial", error=record)
