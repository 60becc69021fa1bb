"""What workers log comes back with their outcomes: their own output is on some other machine."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline import memory
from pipeline.task import Outcome, WorkerLog, WorkItem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.task import Task, Worker

MAX_LINES = 20
"""Lines per outcome; what a library says of every sample must not fill the events of a run."""
MAX_CHARACTERS = 500
"""Of one line."""
WRITERS = ("writer", "objects")
"""How threads are called that write an item while the next one is computed."""
APART = ("pipeline.callbacks", "mlflow", "opentelemetry", "tensorboard", "wandb")
"""Loggers of those who are told of a run; what they say is nothing of a worker's."""
LISTENING = "callback-"
"""How threads that tell them are called; libraries say much by way of others' loggers."""
OPENING = WorkItem("", -1, attempt=0)
"""What is done before the first item."""


@dataclass(frozen=True)
class LoggedTask:
    """A task whose workers keep what is logged, from warnings on, and tell it with outcomes."""

    task: Task
    """What is done."""

    def open(self, worker: str) -> LoggedWorker:
        """Return the worker; what is logged while it is made is told with its first outcome."""
        lines = Lines()
        logging.getLogger().addHandler(lines)
        try:
            with lines.computing(OPENING):
                return LoggedWorker(self.task.open(worker), lines)
        except BaseException:
            lines.close()
            raise


class LoggedWorker:
    """A worker, and the lines that it has logged.

    Parameters
    ----------
    worker
        Who does the work.
    lines
        What it logs.
    """

    def __init__(self, worker: Worker, lines: Lines) -> None:
        self._worker = worker
        self._lines = lines

    def __call__(self, item: WorkItem) -> Outcome | Future[Outcome]:
        """Do one item, and add to its outcome what has been logged."""
        self._lines.begin(item)
        try:
            with self._lines.computing(item):
                result = self._worker(item)
        except BaseException:
            self._lines.end(item)
            raise
        if not isinstance(result, Future):
            return self._told(item, result)
        told: Future[Outcome] = Future()
        result.add_done_callback(partial(self._settle, item, told))
        return told

    def close(self) -> None:
        """Wait for what is being written, and listen no more."""
        try:
            self._worker.close()
        finally:
            self._lines.close()

    def _settle(self, item: WorkItem, told: Future[Outcome], written: Future[Outcome]) -> None:
        error = written.exception()
        if error is None:
            told.set_result(self._told(item, written.result()))
        else:
            self._lines.end(item)
            told.set_exception(error)

    def _told(self, item: WorkItem, outcome: Outcome) -> Outcome:
        self._lines.end(item)
        held = outcome.peak_memory or memory.peak()
        return replace(outcome, peak_memory=held, logs=self._lines.take())


class Lines(logging.Handler):
    """Keeps what is logged on behalf of items, each line with its item.

    Lines of the thread that computes, and of those that read for it, belong to the item that is
    computed; those of writers to the oldest item that is not through, as writing is in order.
    What other threads log while nothing is done, a serial run's driver for one, is not a worker's,
    nor what callbacks say at any time: it goes where it would go if nobody listened here.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[WorkerLog] = []
        self._n_left_out = 0
        self._unfinished: deque[WorkItem] = deque()
        self._computed: tuple[int, WorkItem] | None = None

    @contextlib.contextmanager
    def computing(self, item: WorkItem) -> Iterator[None]:
        """Take what this thread logs as an item's for the time of a with block."""
        self._computed = (threading.get_ident(), item)
        try:
            yield
        finally:
            self._computed = None

    def begin(self, item: WorkItem) -> None:
        """Take note that an item is begun."""
        with self._locked():
            self._unfinished.append(item)

    def end(self, item: WorkItem) -> None:
        """Take note that an item is through."""
        with self._locked(), contextlib.suppress(ValueError):
            self._unfinished.remove(item)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line if it is an item's; logging holds the lock."""
        item = self._item_of(record)
        if item is None:
            if not self._is_heard_elsewhere(record):
                # logging does this itself where there is no handler, and here there is one
                _to_stderr(record)
            return
        if len(self._lines) >= MAX_LINES:
            self._n_left_out += 1
            return
        self._lines.append(_line(item, record))

    def take(self) -> tuple[WorkerLog, ...]:
        """Return the lines kept so far, which are not kept any longer."""
        with self._locked():
            lines, n_left_out = self._lines, self._n_left_out
            self._lines, self._n_left_out = [], 0
        if n_left_out:
            said = f"{n_left_out} more lines were logged and are left out"
            lines.append(replace(lines[-1], logger=__name__, message=said))
        return tuple(lines)

    def close(self) -> None:
        """Listen no more."""
        logging.getLogger().removeHandler(self)
        super().close()

    def _is_heard_elsewhere(self, record: logging.LogRecord) -> bool:
        """Say whether a handler of somebody else's, or a later one of ours, has the record."""
        found: list[logging.Handler] = []
        at: logging.Logger | None = logging.getLogger(record.name)
        while at is not None:
            found += at.handlers
            at = at.parent if at.propagate else None
        others = [each for each in found if not isinstance(each, Lines)]
        return bool(others) or found[-1:] != [self]

    def _item_of(self, record: logging.LogRecord) -> WorkItem | None:
        if _is_of_listener(record):
            return None
        computed = self._computed
        if computed is not None and record.thread == computed[0]:
            return computed[1]
        is_writer = (record.threadName or "").startswith(WRITERS)
        if computed is not None and not is_writer:
            return computed[1]
        is_elsewhere = record.thread != threading.main_thread().ident
        return self._unfinished[0] if self._unfinished and is_elsewhere else None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _is_of_listener(record: logging.LogRecord) -> bool:
    root = record.name.startswith(APART)
    return root or (record.threadName or "").startswith(LISTENING)


def _to_stderr(record: logging.LogRecord) -> None:
    last = logging.lastResort
    if last is not None and record.levelno >= last.level:
        last.handle(record)


def _line(item: WorkItem, record: logging.LogRecord) -> WorkerLog:
    message = _message(record)
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        message = f"{message}: {type(error).__name__}: {error}"
    if len(message) > MAX_CHARACTERS:
        message = f"{message[: MAX_CHARACTERS - 4]} ..."
    return WorkerLog(
        item.pass_name,
        item.shard,
        item.attempt,
        record.levelname,
        record.name,
        message,
        record.created,
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # arguments that do not fit the text, in anybody's code, must not fail the shard
        return str(record.msg)
