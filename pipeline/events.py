"""What happens during a run, told to callbacks; the engine and the worker know none of them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipeline.task import ShardError


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run, or its resumption, begins."""

    path: str
    """Folder of the run."""
    digest: str
    """Digest of what decides its results."""
    epoch: int
    """How often it has been started, this time included."""
    n_samples: int
    """Samples in the manifest."""
    n_shards: int
    """Shards of every pass."""
    passes: tuple[str, ...]
    """Passes that are planned."""


@dataclass(frozen=True)
class PassStarted(Event):
    """A pass over the shards begins."""

    pass_name: str
    """Names it."""
    n_shards: int
    """All shards."""
    n_done: int
    """Shards committed earlier; they are not done again."""
    n_samples: int
    """Samples in all shards."""
    n_samples_done: int
    """Samples in the shards committed earlier."""


@dataclass(frozen=True)
class ShardCommitted(Event):
    """A shard's record is in the ledger."""

    pass_name: str
    """The pass."""
    shard: int
    """Index of the shard."""
    attempt: int
    """Which attempt at it succeeded, from 1."""
    n_samples: int
    """Samples in the shard."""
    n_failed: int
    """Samples of it that could not be used."""
    seconds: float
    """Time from start to commit."""
    worker: str
    """Who did it."""
    peak_memory: int = 0
    """Bytes that the worker has held at most so far: on the GPU if it uses one."""


@dataclass(frozen=True)
class ShardSkipped(Event):
    """A worker found a shard committed by somebody else, an orphan of an earlier epoch perhaps."""

    pass_name: str
    """The pass."""
    shard: int
    """Index of the shard."""
    n_samples: int
    """Samples in the shard."""
    n_failed: int
    """Samples of it that could not be used."""
    worker: str
    """Who found it."""


@dataclass(frozen=True)
class ShardFailed(Event):
    """One attempt failed; the shard is tried again."""

    pass_name: str
    """The pass."""
    shard: int
    """Index of the shard."""
    attempt: int
    """Which attempt failed, from 1."""
    worker: str
    """Who made it."""
    error: ShardError
    """Type, message and traceback, the shard, the samples of the batch, and whether all others
    must fail, too."""


@dataclass(frozen=True)
class ShardQuarantined(Event):
    """The last attempt failed; the run goes on without the shard."""

    pass_name: str
    """The pass."""
    shard: int
    """Index of the shard."""
    attempt: int
    """Which attempt failed, from 1."""
    worker: str
    """Who made it."""
    error: ShardError
    """Type, message and traceback, the shard, the samples of the batch, and whether all others
    must fail, too."""


@dataclass(frozen=True)
class WorkerLost(Event):
    """A worker's process died; it is replaced."""

    pass_name: str
    """The pass."""
    worker: str
    """Who died."""
    shard: int
    """The shard that it had started, and that is charged."""
    reason: str
    """What the platform knows of the death."""


@dataclass(frozen=True)
class WorkerLogged(Event):
    """A worker logged a warning or an error; told with the next outcome of that worker."""

    pass_name: str
    """The pass."""
    shard: int
    """Index of the shard; -1 while a task was being opened."""
    attempt: int
    """Which attempt at it; 0 while a task was being opened."""
    worker: str
    """Who said it."""
    level: str
    """``WARNING``, ``ERROR`` or ``CRITICAL``."""
    logger: str
    """Name of the logger: the module's."""
    message: str
    """What was said, cut where it is long."""
    at: float
    """When, seconds since 1970 by the worker's clock."""


@dataclass(frozen=True)
class PassFinished(Event):
    """A pass is through, or was stopped."""

    pass_name: str
    """The pass."""
    n_done: int
    """Shards that are committed now."""
    n_quarantined: int
    """Shards that were given up."""
    seconds: float
    """Time that the pass took in this start."""


@dataclass(frozen=True)
class NotFinite(Event):
    """Maps of a pass that is through are NaN or infinite somewhere."""

    pass_name: str
    """The pass."""
    explainer: str
    """Whose maps they are."""
    n_samples: int
    """Samples with such a map; they are stored as they are."""


@dataclass(frozen=True)
class ScanFinished(Event):
    """A scan's result is written."""

    scan: str
    """Its entry in the run file."""


@dataclass(frozen=True)
class StageFinished(Event):
    """Something after the passes is done, the report for example."""

    stage: str
    """Names it: ``report``, ``atlas``, ``gates``."""
    detail: str
    """What came of it: a path, or a tally."""


@dataclass(frozen=True)
class RunFinished(Event):
    """The run ended, in whatever way."""

    exit_code: int
    """Of the command: 0, 1, 3, 4, 5, 130 or 143."""
    n_samples: int
    """Samples in the manifest."""
    n_failed: int
    """Samples that could not be used."""
    quarantined: tuple[tuple[str, int], ...]
    """Pass and shard of each shard that was given up."""
    seconds: float
    """Time that this start took."""
    message: str = ""
    """The error that ended it, if one did."""


class Callback(Protocol):
    """Whoever wants to know: called in the driver, in order, and quick to return."""

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""


def record(event: Event) -> dict[str, Any]:
    """Return an event as plain values, ``event`` naming its kind: ``shard_committed``."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return {"event": kind, **asdict(event)}
