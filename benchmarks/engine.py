"""The Ray engine against a plain loop over the same work, and what writing adds to it.

The work is the quickstart's: digits, LeNet, saliency, integrated gradients and LRP. Every worker
and the plain loop compute with one torch thread; figures are the best of several rounds, taken in
turn, because a machine with other things to do makes any of them slower and none faster::

    OMP_NUM_THREADS=1 python -m benchmarks.engine --limit 2000 --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from pipeline.config import load
from pipeline.engine import Outcome, Settings, WorkItem, engines
from pipeline.planner import make_plan
from pipeline.products import Products, coordinates, layouts
from pipeline.run import _settle_folder
from pipeline.sinks.maps import MapSink
from pipeline.worker import ExplainTask, ExplainWorker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.engine import Engine, Task

ROOT = Path(__file__).parents[1]
RUN_FILE = ROOT / "configs" / "quickstart" / "run.yaml"
CHANGES = (
    "explainers={saliency: {}, integrated_gradients: {n_steps: 16}, lrp: {}}",
    "metrics={}",
    "engine.batch_size=16",
)
SHARD = 128
SMALL_SHARD = 16
"""The same work in eight times as many shards: what it takes longer, each shard costs."""
N_IDLE = 400
"""Shards in which nothing is done."""


@dataclass(frozen=True)
class Idle:
    """Does nothing: what is left is the engine's own time."""

    def open(self, worker: str) -> IdleWorker:
        """Return the worker."""
        return IdleWorker()


class IdleWorker:
    """Does nothing."""

    def __call__(self, item: WorkItem) -> Outcome:
        """Say that it is done."""
        return Outcome(item, "committed")

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Unwritten(ExplainTask):
    """Explains and forgets."""

    def open(self, worker: str) -> UnwrittenWorker:
        """Return the worker."""
        return UnwrittenWorker(self, worker)


class UnwrittenWorker(ExplainWorker):
    """Explains, and says that it has written."""

    def _commit(self, item: WorkItem, products: Products, started: float, clock: float) -> Outcome:
        return Outcome(item, "committed", n_samples=len(products.shard))


class Work:
    """The tasks, in a folder that forgets between measurements."""

    def __init__(self, folder: Path, limit: int, shard_size: int) -> None:
        self.path = folder / f"in shards of {shard_size}"
        sizes = (f"data.limit={limit}", f"output.shard_size={shard_size}")
        changes = (*CHANGES, *sizes, f"output.path={self.path}")
        config = load(RUN_FILE, changes)
        planned = make_plan(config)
        self.plan = _settle_folder(self.path, config, planned)
        MapSink(self.path).create(
            layouts(self.plan, list(self.plan.maps)),
            self.plan.n_samples,
            self.plan.shard_size,
            coordinates=coordinates(self.plan),
        )
        found = planned.explainers
        self.written = ExplainTask(str(self.path), config, self.plan, "explain", found)
        self.unwritten = Unwritten(str(self.path), config, self.plan, "explain", found)
        self.n_starts = 0

    def items(self, n: int | None = None) -> list[WorkItem]:
        """Return the shards, under a name of a pass that has no records yet."""
        self.n_starts += 1
        shards = self.plan.shards if n is None else self.plan.shards[:n]
        return [WorkItem("explain", shard.index, epoch=self.n_starts) for shard in shards]

    def forget(self) -> None:
        """Remove all records, so that nothing is done."""
        for record in (self.path / "ledger").rglob("*.json"):
            record.unlink()


def timed(engine: Engine, task: Task, items: list[WorkItem]) -> float:
    """Return the seconds of a mapping, from the call to the last commit."""
    began = time.perf_counter()
    outcomes = engine.map(task, items, on_outcome=check, stop=lambda: False)
    seconds = time.perf_counter() - began
    assert len(outcomes) == len(items)
    return seconds


def check(outcome: Outcome) -> None:
    """Refuse to time anything but work."""
    assert outcome.status == "committed", outcome


def processor_seconds() -> float:
    """Return what this process and its actors have used of processors so far."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    spent = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid == os.getpid() or "ray::Host" in " ".join(process.cmdline()):
                times = process.cpu_times()
                spent += times.user + times.system
    return spent


def plain(work: Work) -> float:
    """Return the seconds of one loop in one thread that explains and writes nothing."""
    worker = work.unwritten.open("plain")
    began = time.perf_counter()
    for shard in work.plan.shards:
        worker._explanation.explain(shard, worker._reader.batches(shard, work.plan.batch_size))
    seconds = time.perf_counter() - began
    worker.close()
    return seconds


@contextlib.contextmanager
def started(workers: int) -> Iterator[Engine]:
    """Give a Ray engine."""
    settings = Settings(workers=workers, paths=(str(ROOT),))
    with engines.get("ray")(settings) as engine:
        yield engine


def measure(work: Work, small: Work, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round by what was timed."""
    seconds: dict[str, list[float]] = {}
    serial = engines.get("serial")(Settings())
    with started(2) as ray, contextlib.closing(serial):
        # actors come up, and everything is imported and read once, before anything is timed
        timed(ray, work.written, work.items(4))
        work.forget()
        timed(serial, work.unwritten, work.items(2))
        work.forget()
        for _ in range(rounds):
            for name, engine, task in (
                ("two actors", ray, work.written),
                ("two actors, small shards", ray, small.written),
                ("one process, unwritten", serial, work.unwritten),
                ("one process, written", serial, work.written),
            ):
                its = small if task is small.written else work
                before = processor_seconds()
                seconds.setdefault(name, []).append(timed(engine, task, its.items()))
                spent = processor_seconds() - before
                seconds.setdefault(f"{name}, of processors", []).append(spent)
                its.forget()
            before = processor_seconds()
            seconds.setdefault("plain loop", []).append(plain(work))
            spent = processor_seconds() - before
            seconds.setdefault("plain loop, of processors", []).append(spent)
        idle = [WorkItem("idle", shard) for shard in range(N_IDLE)]
        timed(ray, Idle(), idle[:4])
        seconds["idle shards, two actors"] = [timed(ray, Idle(), idle) for _ in range(rounds)]
        seconds["idle shards, one process"] = [timed(serial, Idle(), idle) for _ in range(rounds)]
    return seconds


def report(work: Work, small: Work, seconds: dict[str, list[float]]) -> dict[str, object]:
    """Return best times and what follows from them."""
    best = {name: min(values) for name, values in seconds.items()}
    n_shards = len(work.plan.shards)
    n_more = len(small.plan.shards) - n_shards
    # of one actor: the two work beside each other
    overhead = 2 * (best["two actors, small shards"] - best["two actors"]) / n_more
    return {
        "samples": work.plan.n_samples,
        "shards": n_shards,
        "threads per worker": 1,
        "processors": os.cpu_count(),
        "seconds": {name: round(value, 4) for name, value in best.items()},
        "ratios": {
            "two actors to a plain loop (at least 1.7)": round(
                best["plain loop"] / best["two actors"], 3
            ),
            "two actors to a plain loop, both processors being theirs": round(
                2 * best["plain loop, of processors"] / best["two actors, of processors"], 3
            ),
            "written to unwritten (at most 1.1)": round(
                best["one process, written"] / best["one process, unwritten"], 3
            ),
            "worker to plain loop": round(best["one process, unwritten"] / best["plain loop"], 3),
        },
        "milliseconds per shard": {
            "engine alone (at most 10)": round(1e3 * best["idle shards, two actors"] / N_IDLE, 3),
            "engine, worker and writing (at most 10)": round(1e3 * overhead, 3),
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--limit", type=int, default=2000, help="digits")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work, small = (Work(Path(folder), arguments.limit, size) for size in (SHARD, SMALL_SHARD))
        print(json.dumps(report(work, small, measure(work, small, arguments.rounds)), indent=2))


if __name__ == "__main__":
    main()
