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
    shard: int
    attempt: int
    n_samples: int
    n_failed: int
    seconds: float
    worker: str


@dataclass(frozen=True)
class ShardSkipped(Event):
    """A worker found a shard committed by somebody else, an orphan of an earlier epoch perhaps."""

    pass_name: str
    shard: int
    n_samples: int
    n_failed: int
    worker: str


@dataclass(frozen=True)
class ShardFailed(Event):
    """One attempt failed; the shard is tried again."""

    pass_name: str
    shard: int
    attempt: int
    worker: str
    error: ShardError


@dataclass(frozen=True)
class ShardQuarantined(Event):
    """The last attempt failed; the run goes on without the shard."""

    pass_name: str
    shard: int
    attempt: int
    worker: str
    error: ShardError


@dataclass(frozen=True)
class WorkerLost(Event):
    """A worker's process died; it is replaced."""

    pass_name: str
    worker: str
    shard: int
    """The shard that it had started, and that is charged."""
    reason: str


@dataclass(frozen=True)
class PassFinished(Event):
    """A pass is through, or was stopped."""

    pass_name: str
    n_done: int
    n_quarantined: int
    seconds: float


@dataclass(frozen=True)
class NotFinite(Event):
    """Maps of a pass that is through are NaN or infinite somewhere."""

    pass_name: str
    explainer: str
    n_samples: int
    """Samples with such a map; they are stored as they are."""


@dataclass(frozen=True)
class ScanFinished(Event):
    """A scan's result is written."""

    scan: str


@dataclass(frozen=True)
class StageFinished(Event):
    """Something after the passes is done, the report for example."""

    stage: str
    detail: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run ended, in whatever way."""

    exit_code: int
    n_samples: int
    n_failed: int
    quarantined: tuple[tuple[str, int], ...]
    """Pass and shard of each."""
    seconds: float
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
