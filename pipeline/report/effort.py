"""Time that a run took, from its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger import Entry
    from pipeline.store import Run


@dataclass(frozen=True)
class Effort:
    """What a set of shards cost."""

    wall: float
    """Seconds in which at least one worker worked; pauses between start and resume left out."""
    working: float
    """Seconds, summed over workers."""
    n_workers: int
    n_shards: int
    n_samples: int
    n_failed: int
    n_retried: int
    """Shards that took more than one attempt."""
    peak_memory: int
    """Bytes, of the worker that used most."""
    began: float
    """Seconds since 1970; 0 if there is nothing."""


def spent(run: Run, pass_name: str | None = None) -> Effort:
    """Return the effort of one pass, or of all of them."""
    chosen = tuple(run.progress()) if pass_name is None else (pass_name,)
    return _sum([entry for name in chosen for entry in run.entries(name).values()])


def _sum(entries: Sequence[Entry]) -> Effort:
    return Effort(
        wall=_covered([(entry.started, entry.started + entry.seconds) for entry in entries]),
        working=sum(entry.seconds for entry in entries),
        n_workers=len({entry.worker for entry in entries}),
        n_shards=len(entries),
        n_samples=sum(entry.n_samples for entry in entries),
        n_failed=sum(entry.n_failed for entry in entries),
        n_retried=sum(entry.attempt > 1 for entry in entries),
        peak_memory=max((entry.peak_memory for entry in entries), default=0),
        began=min((entry.started for entry in entries), default=0.0),
    )


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
