"""The Ray engine's driver against a cluster of 64 workers and 2,000 shards of one second.

What is measured is the engine that runs use: its queue, its journal, its loop. Only the workers
are stand-ins: 64 processes with torch would measure this machine's memory, so each of a few
processes does the sleeping of several workers::

    OMP_NUM_THREADS=1 python -m benchmarks.cluster
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import ray

from pipeline.engine import Outcome, Settings, WorkItem
from pipeline.engine.ray import RayEngine
from pipeline.engine.slots import IN_FLIGHT

N_PROCESSES = 8
MIN_SHARE = 0.95
MAX_MILLISECONDS = 1.0


@dataclass(frozen=True)
class Sleep:
    """Sleeps for a while at every shard."""

    seconds: float

    def open(self, worker: str) -> SleepWorker:
        """Return the worker."""
        return SleepWorker(self.seconds)


@dataclass(frozen=True)
class SleepWorker:
    """Sleeps for a while at every shard."""

    seconds: float

    def __call__(self, item: WorkItem) -> Outcome:
        """Sleep, and say that it is done."""
        time.sleep(self.seconds)
        return Outcome(item, "committed", n_samples=1, seconds=self.seconds)

    def close(self) -> None:
        """Do nothing."""


class Crowd:
    """Several workers in one process: as `pipeline.engine.host.Host`, but without torch."""

    def __init__(self, journal: Any, n: int) -> None:
        self._journal = journal
        self._turns = threading.Semaphore(n)
        self._worker: SleepWorker | None = None

    def open(self, task: bytes, _previous: str | None = None) -> str:
        """Open a pickled task; return the node."""
        self._worker = ray.cloudpickle.loads(task).open("crowd")
        return str(ray.get_runtime_context().get_node_id())

    def run(self, item: WorkItem) -> Outcome:
        """Do one item, with an entry in the journal as every worker makes it."""
        assert self._worker is not None
        with self._turns:
            key = (item.pass_name, item.shard, item.attempt)
            ray.get(self._journal.started.remote("crowd", key))
            return self._worker(item)


class CrowdEngine(RayEngine):
    """The engine, with workers that share processes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._crowds: list[Any] = []

    def _start_actor(self, name: str) -> Any:
        n_each = int(self.settings.workers) // N_PROCESSES
        if len(self._crowds) < N_PROCESSES:
            options = {"num_cpus": 0, "max_concurrency": n_each * IN_FLIGHT + 1}
            crowd = ray.remote(Crowd).options(**options)
            self._crowds.append(crowd.remote(self._journal, n_each))
        return self._crowds[(self._n_started - 1) % N_PROCESSES]


@dataclass(frozen=True)
class Figures:
    """What the driver reached."""

    shards_a_second: float
    share_of_ideal: float
    """Of as many shards a second as there are workers, each sleeping all the time."""
    driver_milliseconds: float
    """Processor time of the driver's thread per shard: the engine, and what it calls of Ray."""
    process_milliseconds: float
    """The same with all threads of Ray in that process; a bare call of an actor that returns at
    once took .9 on two cores."""


def measure(n_workers: int, n_shards: int, seconds: float) -> Figures:
    """Work off shards on a crowd and return what the driver reached."""
    settings = Settings(workers=n_workers, gpus_per_worker=0)
    with CrowdEngine(settings) as engine:
        items = [WorkItem("sleep", shard) for shard in range(n_shards)]
        # processes start, and everything is imported once
        engine.map(Sleep(0.0), items[: 4 * n_workers], on_outcome=_forget, stop=_never)
        started, of_thread, of_all = time.perf_counter(), time.thread_time(), time.process_time()
        outcomes = engine.map(Sleep(seconds), items, on_outcome=_forget, stop=_never)
        took = time.perf_counter() - started
        of_thread, of_all = time.thread_time() - of_thread, time.process_time() - of_all
    if sorted(outcome.item.shard for outcome in outcomes) != list(range(n_shards)):
        raise RuntimeError("some shard was not done once")
    # the last round of workers need not be full: the ideal has whole rounds
    ideal = -(-n_shards // n_workers) * seconds
    each = (1000 * used / n_shards for used in (of_thread, of_all))
    return Figures(n_shards / took, ideal / took, *each)


def _forget(outcome: Outcome) -> None:
    """Look at no outcome."""


def _never() -> bool:
    return False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    figures = measure(arguments.workers, arguments.shards, arguments.seconds)
    print(json.dumps(asdict(figures), indent=2))
    print(f"share of ideal {figures.share_of_ideal:.1%} (at least {MIN_SHARE:.0%})")
    print(f"driver {figures.driver_milliseconds:.2f} ms a shard (below {MAX_MILLISECONDS:g})")


if __name__ == "__main__":
    main()
