"""Tasks for the engines' tests: each shard leaves a line in a file, and some misbehave."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.engine import Outcome, WorkItem
from pipeline.errors import PlanError


@dataclass(frozen=True)
class Toy:
    folder: str
    kill: frozenset[int] = frozenset()
    """Shards that kill their process at every attempt."""
    kill_once: frozenset[int] = frozenset()
    fail: frozenset[int] = frozenset()
    full_disk: frozenset[int] = frozenset()
    kill_in_writer: frozenset[int] = frozenset()
    seconds: float = 0.0
    is_background: bool = False
    cannot_open: bool = False
    is_refused: bool = False
    """Whether opening raises what a user is meant to read."""

    def open(self, worker: str) -> ToyWorker:
        if self.is_refused:
            raise PlanError("maps differ", fix="take float32", page="faster-passes-differ")
        if self.cannot_open:
            raise RuntimeError("no such weights")
        return ToyWorker(self, worker)


@dataclass
class ToyWorker:
    task: Toy
    name: str
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __call__(self, item: WorkItem) -> Outcome | Future[Outcome]:
        self.note("begun", item)
        shard = item.shard
        if shard in self.task.kill or (shard in self.task.kill_once and item.attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if shard in self.task.fail:
            raise ZeroDivisionError(f"shard {shard} is poison")
        if shard in self.task.full_disk:
            raise OSError(28, "No space left on device")
        time.sleep(self.task.seconds)
        if self.task.is_background:
            return self.pool.submit(self.write, item)
        return self.write(item)

    def write(self, item: WorkItem) -> Outcome:
        if item.shard in self.task.kill_in_writer:
            os.kill(os.getpid(), signal.SIGKILL)
        self.note("done", item)
        return Outcome(item, "committed", n_samples=1, worker=self.name)

    def note(self, what: str, item: WorkItem) -> None:
        import pipeline

        line = f"{what} {item.shard} {item.attempt} {torch.get_num_threads()} {pipeline.__file__}\n"
        descriptor = os.open(
            Path(self.task.folder) / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def close(self) -> None:
        self.pool.shutdown()


def log(folder: Path, what: str) -> list[int]:
    """Return the shards of the lines that begin with a word."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(what)]
