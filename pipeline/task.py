"""What an engine maps: a task, opened once per worker, called once per item of work."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

Status = Literal["committed", "skipped", "failed", "quarantined"]

FATAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""A full or read-only disk fails every shard alike: trying others only wastes compute."""

WORKER_LOST = "WorkerLost"
"""``ShardError.type`` of a shard whose worker's process died."""

NODE_LOST = "NodeLost"
"""``ShardError.type`` of a shard whose worker's machine went away; no attempt is charged."""


@dataclass(frozen=True)
class WorkItem:
    """One shard of one pass, to be done."""

    pass_name: str
    """Names the pass, for example ``explain`` or ``evaluate.sparseness``."""
    shard: int
    """Index of the shard."""
    attempt: int = 1
    """Counts from one; only a failure that the shard was charged with raises it."""
    epoch: int = 1
    """Which start of the run this is; commits carry it."""


@dataclass(frozen=True)
class ShardError:
    """What went wrong with a shard, as plain text: the exception itself may not unpickle."""

    type: str
    """Qualified name of the exception's class."""
    message: str
    """Its message."""
    traceback: str
    """Its formatted traceback, from the worker."""
    shard: int
    """Index of the shard."""
    sample_ids: tuple[str, ...] = ()
    """Samples of the batch that was being computed."""
    is_fatal: bool = False
    """Whether other shards must fail too (a full disk), so that the engine stops."""

    @classmethod
    def of(cls, error: BaseException, shard: int, sample_ids: Sequence[str] = ()) -> ShardError:
        """Return the record of an exception."""
        kind = type(error)
        prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return cls(
            type=f"{prefix}{kind.__qualname__}",
            message=str(error),
            traceback="".join(traceback.format_exception(error)),
            shard=shard,
            sample_ids=tuple(sample_ids),
            is_fatal=_is_fatal(error),
        )


@dataclass(frozen=True)
class WorkerLog:
    """A warning or error that a worker logged, as plain text."""

    pass_name: str
    """The pass; empty while a task was being opened."""
    shard: int
    """Index of the shard; -1 while a task was being opened."""
    attempt: int
    """Which attempt at it; 0 while a task was being opened."""
    level: str
    """``WARNING``, ``ERROR`` or ``CRITICAL``."""
    logger: str
    """Name of the logger: the module's."""
    message: str
    """What was said, cut where it is long."""
    at: float
    """When, seconds since 1970 by the worker's clock; nothing is ordered by it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt at an item of work."""

    item: WorkItem
    """The attempt."""
    status: Status
    """``failed`` attempts are tried again by the engine; the last one is ``quarantined``."""
    n_samples: int = 0
    """Samples in the shard."""
    n_failed: int = 0
    """Samples of it that could not be used."""
    seconds: float = 0.0
    """Time from start to commit."""
    worker: str = ""
    """Who did it."""
    error: ShardError | None = None
    """Why it failed, or was quarantined."""
    peak_memory: int = 0
    """Bytes that the worker has held at most so far: on the GPU if it uses one."""
    logs: tuple[WorkerLog, ...] = ()
    """What the worker has logged since its last outcome; not only about this item."""


class Worker(Protocol):
    """A task opened on one worker: holds the model, an open store, threads."""

    def __call__(self, item: WorkItem) -> Outcome | Future[Outcome]:
        """Do one item and return its outcome, or a future of it where a thread still writes.

        Calls come one at a time. An exception is taken as a failed attempt, and a worker that
        wants its error to name samples returns an outcome with status ``failed`` instead.
        """

    def close(self) -> None:
        """Wait for what is being written, and let go of threads and files."""


class Task(Protocol):
    """What to do with every shard; picklable, so no closures, no open files, no model."""

    def open(self, worker: str) -> Worker:
        """Return the worker; called once per process and pass, where the work will be done."""


def _is_fatal(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FATAL_ERRNO:
            return True
        error = error.__cause__ or error.__context__
    return False
