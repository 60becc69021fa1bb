"""Counters, gauges and histograms of a run among Ray's own, for the Prometheus of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.events import (
    PassFinished,
    PassStarted,
    ShardCommitted,
    ShardFailed,
    ShardQuarantined,
    ShardSkipped,
    WorkerLost,
)

if TYPE_CHECKING:
    from pipeline.events import Event

LABELS = ("run", "pass")
"""What every figure is told by."""
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Bounds of shards' seconds: a shard is planned to take seconds to minutes."""
GIB = float(1 << 30)
PEAKS = tuple(GIB * 2.0**power for power in range(-2, 8))
"""Bounds of peak memory: 256 MiB to 128 GiB, doubling."""

COUNTERS = {
    "xpipe_shards_committed": "Shards whose record this start of the run has entered.",
    "xpipe_shards_failed": "Attempts at shards that failed and are made again.",
    "xpipe_shards_given_up": "Shards whose last attempt failed.",
    "xpipe_workers_lost": "Workers whose process died.",
    "xpipe_samples": "Samples in committed shards.",
    "xpipe_samples_failed": "Samples that could not be used.",
}
GAUGES = {"xpipe_shards_waiting": "Shards of the pass that are not done: waiting or in flight."}
HISTOGRAMS = {
    "xpipe_shard_seconds": ("Seconds from start to commit of a shard.", SECONDS),
    "xpipe_worker_peak_bytes": ("Most memory a worker had held when it committed.", PEAKS),
}


def observers(kind: str, run: str) -> tuple[RayMetrics, ...]:
    """Return whoever has to be told events where an engine of this kind runs: Ray's metrics."""
    return (RayMetrics(run),) if kind == "ray" else ()


@dataclass
class _Pass:
    name: str
    n_waiting: int


class RayMetrics:
    """Keeps a run's figures in Ray, which exports them from the driver's node.

    Parameters
    ----------
    run
        The run's name, a label of every figure.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._pass = _Pass("", 0)
        self._figures: dict[str, Any] | None = None

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        match event:
            case PassStarted():
                # nothing is told of it yet: Ray is started with the first shard
                self._pass = _Pass(event.pass_name, event.n_shards - event.n_done)
            case ShardCommitted():
                self._commit(event)
            case ShardSkipped():
                self._settle()
            case ShardFailed():
                self._count("xpipe_shards_failed")
            case ShardQuarantined():
                self._count("xpipe_shards_given_up")
                self._settle()
            case WorkerLost():
                self._count("xpipe_workers_lost")
            case PassFinished() if self._figures is not None:
                # nothing waits for its turn any more, also where a signal has ended the pass
                self._gauge(0)

    def close(self) -> None:
        """Do nothing: Ray exports by itself, every few seconds while it runs."""

    def _commit(self, event: ShardCommitted) -> None:
        self._count("xpipe_shards_committed")
        self._count("xpipe_samples", event.n_samples)
        self._count("xpipe_samples_failed", event.n_failed)
        self._observe("xpipe_shard_seconds", event.seconds)
        if event.peak_memory:
            self._observe("xpipe_worker_peak_bytes", event.peak_memory)
        self._settle()

    def _settle(self) -> None:
        self._pass.n_waiting -= 1
        self._gauge(self._pass.n_waiting)

    def _count(self, name: str, by: int = 1) -> None:
        if by:  # Ray refuses to add nothing
            self._figure(name).inc(by, tags=self._labels())

    def _observe(self, name: str, value: float) -> None:
        self._figure(name).observe(float(value), tags=self._labels())

    def _gauge(self, value: int) -> None:
        self._figure("xpipe_shards_waiting").set(value, tags=self._labels())

    def _labels(self) -> dict[str, str]:
        return {"run": self._run, "pass": self._pass.name}

    def _figure(self, name: str) -> Any:
        if self._figures is None:
            self._figures = _figures()
        return self._figures[name]


def _figures() -> dict[str, Any]:
    """Return Ray's objects by name; what is made before Ray is started is never exported."""
    from ray.util.metrics import Counter, Gauge, Histogram

    counters = {name: Counter(name, text, LABELS) for name, text in COUNTERS.items()}
    gauges = {name: Gauge(name, text, LABELS) for name, text in GAUGES.items()}
    histograms = {
        name: Histogram(name, text, list(bounds), LABELS)
        for name, (text, bounds) in HISTOGRAMS.items()
    }
    return {**counters, **gauges, **histograms}
