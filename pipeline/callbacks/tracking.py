"""What trackers of experiments are told: parameters, progress as figures, scores at the end."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet

from pipeline import paths
from pipeline.callbacks.listener import Listener
from pipeline.events import (
    PassFinished,
    PassStarted,
    RunFinished,
    RunStarted,
    ShardCommitted,
    ShardFailed,
    ShardQuarantined,
    ShardSkipped,
    WorkerLost,
)
from pipeline.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.config import RunConfig
    from pipeline.events import Event

SAMPLES = "samples"
"""Figure of a pass that the others are drawn over."""
_UNTOLD = ("base", "callbacks")
"""Sections that are no parameters: where files lie, and who is told, perhaps with passwords."""
_COUNTED: dict[type[Event], str] = {
    ShardFailed: "attempts_failed",
    ShardQuarantined: "shards_given_up",
    WorkerLost: "workers_lost",
}


@dataclass(frozen=True)
class Start:
    """What is known of a run when it is first told of."""

    config: RunConfig
    """What was asked for."""
    path: str
    """Folder of the run."""
    digest: str
    """Digest of what decides its results."""
    epoch: int
    """How often it has been started; 0 for an evaluation of its own."""

    @property
    def parameters(self) -> dict[str, str | int | float | bool]:
        """The run file, flattened: ``explainers.lrp.composite`` to its value."""
        values = self.config.model_dump(mode="json")
        for section in ("explainers", "metrics"):
            # also of entries that say nothing else
            values[section] = {
                name: {"method": name, **own} for name, own in values[section].items()
            }
        return dict(flattened({key: values[key] for key in values if key not in _UNTOLD}))

    @property
    def tags(self) -> dict[str, str]:
        """What tells runs apart."""
        return {
            "xpipe.run": self.config.name,
            "xpipe.digest": self.digest,
            "xpipe.epoch": str(self.epoch),
            "xpipe.path": self.path,
        }


@dataclass(frozen=True)
class Ending:
    """What became of it."""

    path: str
    """Folder of the run."""
    exit_code: int
    """Of the command; an evaluation of its own counts as done."""
    message: str
    """The error that ended it, if one did."""
    scores: Mapping[str, float]
    """``scores/<metric>/<explainer>/<column>`` to the mean over all samples."""
    totals: Mapping[str, float]
    """Samples, failed ones and seconds; empty after an evaluation of its own."""


class Backend(Protocol):
    """Where a tracker keeps what it is told."""

    def figures(self, pass_name: str, values: Mapping[str, float], step: int) -> None:
        """Keep figures of a pass after so many samples of it."""

    def finish(self, ending: Ending) -> None:
        """Keep what became of the run, and close."""


@dataclass(frozen=True)
class Tracker(Listener, ABC):
    """A tracker of experiments; a start of a run is one experiment."""

    every: float = 5.0
    """Seconds between figures of progress; those at the end of a pass are always told."""

    @abstractmethod
    def begin(self, start: Start) -> Backend:
        """Return where the experiment is kept; called at the first event."""

    def open(self, config: RunConfig, path: str) -> Tracking:
        """Return the callback for one start of a run."""
        return Tracking(self, config, path)


class Tracking:
    """Turns events into figures.

    Parameters
    ----------
    tracker
        Who begins an experiment.
    config
        What was asked for.
    path
        Folder of the run.
    """

    def __init__(self, tracker: Tracker, config: RunConfig, path: str) -> None:
        self._tracker = tracker
        self._config = config
        self._path = path
        self._backend: Backend | None = None
        self._progress = Progress(PassStarted("", 0, 0, 0, 0))
        self._told_at = 0.0
        self._end: RunFinished | None = None

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        backend = self._begun(event)
        if isinstance(event, RunFinished):
            self._end = event
        if isinstance(event, PassStarted):
            self._progress = Progress(event)
            self._told_at = time.monotonic()
        self._progress.count(event)
        is_due = time.monotonic() - self._told_at >= self._tracker.every
        if isinstance(event, PassFinished) or (is_due and isinstance(event, ShardCommitted)):
            self._told_at = time.monotonic()
            progress = self._progress
            backend.figures(progress.pass_name, progress.figures(), progress.n_done)

    def close(self) -> None:
        """Tell what became of the run."""
        if self._backend is None:
            return
        end = self._end
        totals = {} if end is None else {"samples": end.n_samples, "failed": end.n_failed}
        self._backend.finish(
            Ending(
                path=self._path,
                exit_code=0 if end is None else end.exit_code,
                message="" if end is None else end.message,
                scores=scores(self._path),
                totals=totals if end is None else {**totals, "seconds": end.seconds},
            )
        )

    def _begun(self, event: Event) -> Backend:
        if self._backend is None:
            plan = Plan.read(paths.Folder(self._path).at_url(paths.PLAN))
            epoch = event.epoch if isinstance(event, RunStarted) else 0
            self._backend = self._tracker.begin(Start(self._config, self._path, plan.digest, epoch))
        return self._backend


class Progress:
    """Counts what happens in a pass.

    Parameters
    ----------
    started
        Its beginning.
    """

    def __init__(self, started: PassStarted) -> None:
        self.pass_name = started.pass_name
        self.n_done = started.n_samples_done
        """Samples in shards that are committed."""
        self._n_new = 0
        self._n_failed = 0
        self._started = time.monotonic()
        self._counts: dict[str, int] = dict.fromkeys(_COUNTED.values(), 0)

    def count(self, event: Event) -> None:
        """Take notice of an event."""
        if isinstance(event, ShardCommitted | ShardSkipped):
            self.n_done += event.n_samples
            self._n_new += event.n_samples
            self._n_failed += event.n_failed
        name = _COUNTED.get(type(event))
        if name is not None:
            self._counts[name] += 1

    def figures(self) -> dict[str, float]:
        """Return the figures of a pass, of this start but for ``samples``."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        return {
            SAMPLES: self.n_done,
            "samples_failed": self._n_failed,
            "samples_per_second": self._n_new / seconds,
            **self._counts,
        }


def flattened(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and plain values; lists are JSON, and what is empty is left out."""
    for key, value in values.items():
        name = f"{under}{key}"
        if isinstance(value, dict):
            yield from flattened(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield from [(name, json.dumps(value))] if value else []
        elif value is not None:
            yield name, value


def scores(path: str) -> dict[str, float]:
    """Return the means over all samples of a run's scores, as far as they are defined."""
    folder = paths.Folder(path)
    if not folder.exists(paths.AGGREGATES):
        return {}
    with folder.open(paths.AGGREGATES) as file:
        table = pyarrow.parquet.read_table(
            file, columns=["metric", "explainer", "column", "step", "group", "mean"]
        )
    return {
        f"scores/{row['metric']}/{row['explainer']}/{row['column']}": row["mean"]
        for row in table.to_pylist()
        if row["group"] == "all" and row["step"] < 0 and _is_number(row["mean"])
    }


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
