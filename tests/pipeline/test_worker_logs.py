"""What workers log comes back with outcomes, each line with the shard that it is about."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pipeline.engine import Settings, engines
from pipeline.task import Outcome, WorkerLog, WorkItem
from pipeline.worker_logs import MAX_CHARACTERS, MAX_LINES, Lines, LoggedTask

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("somebody.elses.model")


@dataclass(frozen=True)
class Talking:
    """Says something while it is opened, computes, reads and writes."""

    n_lines: int = 1
    fails: bool = False

    def open(self, worker: str) -> TalkingWorker:
        logger.warning("opened by %s", worker)
        return TalkingWorker(self)


class TalkingWorker:
    def __init__(self, task: Talking) -> None:
        self.task = task
        self.readers = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self.writers = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def __call__(self, item: WorkItem) -> Future[Outcome]:
        for _ in range(self.task.n_lines):
            logger.warning("computes %s", item.shard)
        logger.info("not worth telling")
        self.readers.submit(logger.error, "reads %s", item.shard).result()
        if self.task.fails:
            raise ZeroDivisionError
        return self.writers.submit(self.write, item)

    def write(self, item: WorkItem) -> Outcome:
        try:
            raise OSError("slow disk")
        except OSError:
            logger.warning("writes %s", item.shard, exc_info=True)
        return Outcome(item, "committed", n_samples=1, worker="serial")

    def close(self) -> None:
        self.readers.shutdown()
        self.writers.shutdown()


def outcomes_of(task: Talking, n: int) -> list[Outcome]:
    items = [WorkItem("explain", shard) for shard in range(n)]
    with engines.get("serial")(Settings()) as engine:
        return engine.map(
            LoggedTask(task), items, on_outcome=lambda outcome: None, stop=lambda: False
        )


def test_every_line_is_told_once_with_its_shard() -> None:
    outcomes = outcomes_of(Talking(), 6)
    lines = [line for outcome in outcomes for line in outcome.logs]
    opening, *others = sorted(lines, key=lambda line: (line.shard, line.message))
    assert (opening.pass_name, opening.shard, opening.attempt) == ("", -1, 0)
    assert opening.message == "opened by serial"
    said = ["computes {}", "reads {}", "writes {}: OSError: slow disk"]
    assert [(line.shard, line.attempt, line.message) for line in others] == [
        (shard, 1, text.format(shard)) for shard in range(6) for text in said
    ]
    assert {line.level for line in others} == {"WARNING", "ERROR"}
    assert {line.logger for line in lines} == {"somebody.elses.model"}
    assert all(outcome.peak_memory > 1 << 20 for outcome in outcomes)


def test_what_was_said_before_a_failure_comes_with_the_next_outcome() -> None:
    worker = LoggedTask(Talking(fails=True)).open("w")
    with pytest.raises(ZeroDivisionError):
        worker(WorkItem("explain", 3))
    worker._worker.task = Talking(n_lines=0)  # type: ignore[attr-defined]
    settled = worker(WorkItem("explain", 4, attempt=2))
    assert isinstance(settled, Future)
    lines = settled.result().logs
    worker.close()
    assert [(line.shard, line.attempt) for line in lines] == [
        (-1, 0),
        (3, 1),
        (3, 1),
        (4, 2),
        (4, 2),
    ]


def test_many_and_long_lines_are_cut() -> None:
    (outcome,) = outcomes_of(Talking(n_lines=100), 1)
    assert len(outcome.logs) == MAX_LINES + 1
    # the opening, the hundred, the reader's and the writer's
    assert outcome.logs[-1].message == f"{103 - MAX_LINES} more lines were logged and are left out"
    worker = LoggedTask(Talking(n_lines=0)).open("w" * 2 * MAX_CHARACTERS)
    settled = worker(WorkItem("explain", 0))
    assert isinstance(settled, Future)
    assert len(settled.result().logs[0].message) == MAX_CHARACTERS
    worker.close()


def test_nobody_listens_any_more_once_a_worker_is_closed() -> None:
    before = list(logging.getLogger().handlers)
    outcomes_of(Talking(), 1)
    assert logging.getLogger().handlers == before


def test_what_the_driver_logs_is_no_workers() -> None:
    worker = LoggedTask(Talking(n_lines=0)).open("w")
    logger.warning("a driver in the same process")
    settled = worker(WorkItem("explain", 0))
    assert isinstance(settled, Future)
    assert "a driver in the same process" not in [line.message for line in settled.result().logs]
    worker.close()


@contextlib.contextmanager
def nobody_listens() -> Iterator[None]:
    """Leave the root logger without handlers, as programs do that do not set up logging."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = before


def test_what_is_no_workers_goes_where_it_would_have_gone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with nobody_listens():
        first = LoggedTask(Talking(n_lines=0)).open("first")
        second = LoggedTask(Talking(n_lines=0)).open("second")
        logger.warning("the driver has bad news")
        logger.info("and this is none")
        first.close()
        second.close()
    assert capsys.readouterr().err == "the driver has bad news\n"


def test_what_callbacks_say_is_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    with nobody_listens(), lines.computing(WorkItem("explain", 0)):
        logging.getLogger().addHandler(lines)
        logging.getLogger("pipeline.callbacks.guarded").warning("tracker is down")
        telling = threading.Thread(
            target=logger.warning, args=("retrying",), name="callback-mlflow"
        )
        telling.start()
        telling.join()
        logger.warning("computes")
    assert [line.message for line in lines.take()] == ["computes"]
    assert capsys.readouterr().err == "tracker is down\nretrying\n"
    lines.close()


def test_lines_and_tasks_travel() -> None:
    line = WorkerLog("explain", 1, 1, "WARNING", "torch", "slow", 0.0)
    outcome = Outcome(WorkItem("explain", 1), "committed", logs=(line,))
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert pickle.loads(pickle.dumps(LoggedTask(Talking()))) == LoggedTask(Talking())
