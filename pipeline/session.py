"""One start of a run: its owner's lock and epoch, its engine, its events, its signals."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline import timings
from pipeline.callbacks import Apart, Guarded
from pipeline.engine import Engine, Settings, engines, metrics
from pipeline.entries import build_callbacks
from pipeline.errors import EngineError, StoreError
from pipeline.events import (
    PassFinished,
    PassStarted,
    ShardCommitted,
    ShardFailed,
    ShardQuarantined,
    ShardSkipped,
    WorkerLogged,
    WorkerLost,
)
from pipeline.interrupts import Interrupts
from pipeline.ownership.heart import Heart
from pipeline.ownership.lock import acquire, release
from pipeline.task import NODE_LOST, WORKER_LOST, Outcome, Task, WorkItem
from pipeline.urls import located
from pipeline.worker_logs import LoggedTask

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import PurePath

    from pipeline.config import RunConfig
    from pipeline.events import Callback, Event
    from pipeline.shards import Shard
    from pipeline.task import WorkerLog

logger = logging.getLogger(__name__)


@dataclass
class Session:
    """A start of a run: everything that maps tasks over its shards goes through `map`.

    Made by `open_session`; `pipeline.run` hands its own to `pipeline.evaluate`.
    """

    path: PurePath
    """Folder of the run; a `pipeline.urls.Url` if it is in an object store."""
    epoch: int
    """How often the run has been started, this time included."""
    engine: Engine
    """Started when something is mapped for the first time."""
    callbacks: tuple[Callback, ...]
    """Told every event."""
    interrupts: Interrupts
    """Signals that ask the run to stop."""
    quarantined: list[tuple[str, int]] = field(default_factory=list)
    """Pass and shard of each shard that was given up."""
    _is_started: bool = False

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has asked for an end."""
        return self.interrupts.received is not None

    def emit(self, event: Event) -> None:
        """Tell every callback."""
        for callback in self.callbacks:
            callback(event)

    def map(
        self, task: Task, pass_name: str, shards: Sequence[Shard], done: Collection[int]
    ) -> list[Outcome]:
        """Map a task over the shards that are not done, telling callbacks what happens.

        Parameters
        ----------
        task
            What to do.
        pass_name
            Names the pass in ledger and events.
        shards
            All shards of the pass.
        done
            Indices of those that are committed already.

        Raises
        ------
        StoreError
            If the disk is full or read-only.
        EngineError
            If workers cannot be started or opened.
        """
        started = time.monotonic()
        self.emit(_pass_started(pass_name, shards, done))
        items = [
            WorkItem(pass_name, shard.index, epoch=self.epoch)
            for shard in shards
            if shard.index not in done
        ]
        outcomes = self._map(task, items)
        n_quarantined = sum(outcome.status == "quarantined" for outcome in outcomes)
        n_done = len(shards) - len(items)
        n_done += sum(outcome.status in ("committed", "skipped") for outcome in outcomes)
        self.emit(PassFinished(pass_name, n_done, n_quarantined, time.monotonic() - started))
        _raise_if_fatal(outcomes)
        return outcomes

    def _map(self, task: Task, items: list[WorkItem]) -> list[Outcome]:
        if not items or self.is_stopping:
            return []
        if not self._is_started:
            self._is_started = True
            self.engine.start()
            # platforms install handlers of their own when they start
            self.interrupts.install()
        return self.engine.map(
            LoggedTask(task), items, on_outcome=self._tell, stop=lambda: self.is_stopping
        )

    def _tell(self, outcome: Outcome) -> None:
        for event in _events(outcome):
            self.emit(event)
        if outcome.status == "quarantined":
            self.quarantined.append((outcome.item.pass_name, outcome.item.shard))


@contextlib.contextmanager
def open_session(
    path: str | PurePath,
    config: RunConfig,
    *,
    callbacks: Sequence[Callback] = (),
    take_over: bool = False,
) -> Iterator[Session]:
    """Own a run's folder for the time of a with block.

    Raises
    ------
    RunConflictError
        If somebody else owns it.
    """
    mine = acquire(path, take_over=take_over)
    try:
        engine = engines.get(config.engine.kind)(settings(config))
        with (
            Interrupts() as interrupts,
            Heart(path, mine, interrupts),
            contextlib.closing(engine),
            _listening(config, path) as listening,
        ):
            told = (*callbacks, *listening)
            yield Session(located(path), mine.epoch, engine, told, interrupts)
    finally:
        release(path, mine)


def settings(config: RunConfig) -> Settings:
    """Return what the engine has to know of a configuration."""
    return Settings(
        address=config.engine.address,
        workers=config.engine.workers,
        threads=config.engine.threads,
        gpus_per_worker=config.engine.gpus_per_worker,
        accelerator_type=config.engine.accelerator_type,
        labels=config.engine.labels,
        resources=config.engine.resources,
        paths=(str(config.base),),
    )


def _pass_started(pass_name: str, shards: Sequence[Shard], done: Collection[int]) -> PassStarted:
    return PassStarted(
        pass_name=pass_name,
        n_shards=len(shards),
        n_done=sum(shard.index in done for shard in shards),
        n_samples=sum(shard.stop - shard.start for shard in shards),
        n_samples_done=sum(shard.stop - shard.start for shard in shards if shard.index in done),
    )


@contextlib.contextmanager
def _listening(config: RunConfig, path: str | PurePath) -> Iterator[tuple[Callback, ...]]:
    """Give those that are told events beside the caller's, none of whom can end the run."""
    asked = build_callbacks(config)
    with contextlib.ExitStack() as stack:
        table = Guarded("timings", timings.TimingsTable(str(path)))
        opened: list[Callback] = [stack.enter_context(contextlib.closing(table))]
        observers = metrics.observers(config.engine.kind, config.name)
        opened += [Guarded("metrics", observer) for observer in observers]
        for name, listener in asked.items():
            try:
                apart = Apart(name, listener.open(config, str(path)))
            except Exception as error:  # as when it is told an event
                logger.warning(
                    "callback %s cannot be opened: %s: %s", name, type(error).__name__, error
                )
            else:
                opened.append(stack.enter_context(contextlib.closing(apart)))
        yield tuple(opened)


def _events(outcome: Outcome) -> Iterator[Event]:
    item = outcome.item
    where = (item.pass_name, item.shard)
    yield from (_logged(line, outcome) for line in outcome.logs)
    if outcome.status == "committed":
        yield ShardCommitted(
            *where,
            item.attempt,
            outcome.n_samples,
            outcome.n_failed,
            outcome.seconds,
            outcome.worker,
            outcome.peak_memory,
        )
    elif outcome.status == "skipped":
        yield ShardSkipped(*where, outcome.n_samples, outcome.n_failed, outcome.worker)
    if outcome.error is None:
        return
    if outcome.error.type in (WORKER_LOST, NODE_LOST):
        yield WorkerLost(item.pass_name, outcome.worker, item.shard, outcome.error.message)
    if outcome.error.type == NODE_LOST:  # the shard has not failed
        return
    kind = ShardQuarantined if outcome.status == "quarantined" else ShardFailed
    yield kind(*where, item.attempt, outcome.worker, outcome.error)


def _logged(line: WorkerLog, outcome: Outcome) -> WorkerLogged:
    return WorkerLogged(
        pass_name=line.pass_name or outcome.item.pass_name,
        shard=line.shard,
        attempt=line.attempt,
        worker=outcome.worker,
        level=line.level,
        logger=line.logger,
        message=line.message,
        at=line.at,
    )


def _raise_if_fatal(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        error = outcome.error
        if error is not None and error.is_fatal:
            raise StoreError(
                f"shard {error.shard} of pass {outcome.item.pass_name!r} cannot be written: "
                f"{error.type}: {error.message}",
                fix="free space, or make the disk writable, then run `xpipe resume`; nothing "
                "half-written has been committed",
                page="disk-full",
            )
        if error is not None and outcome.status == "failed":
            raise EngineError(f"shard {error.shard} failed: {error.type}: {error.message}")
