"""Which shard next, who is charged when one fails, and when one is given up."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.engine import MAX_ATTEMPTS, MAX_EXCUSED
from pipeline.task import NODE_LOST, WORKER_LOST, Outcome, ShardError, WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Queue:
    """Items that wait, and outcomes of those that are through; the same for every engine.

    An item that was on a worker when it died is a suspect: it runs alone next time, so that a
    second death leaves no doubt about who caused it.

    Parameters
    ----------
    items
        What is to be done.
    on_outcome
        Told every outcome, failed attempts included.
    """

    def __init__(self, items: Iterable[WorkItem], on_outcome: Callable[[Outcome], None]) -> None:
        self._waiting = deque(items)
        self._suspects: deque[WorkItem] = deque()
        self._suspected: set[tuple[str, int]] = set()
        self._n_excused: Counter[tuple[str, int]] = Counter()
        self._on_outcome = on_outcome
        self.outcomes: list[Outcome] = []
        """The last outcome of every item that is through."""
        self.is_fatal = False
        """Whether an error was such that nothing else should be begun."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def take(self, in_flight: Iterable[WorkItem] = ()) -> WorkItem | None:
        """Return the next item for a worker that has others in flight, or None."""
        beside = list(in_flight)
        if any((item.pass_name, item.shard) in self._suspected for item in beside):
            return None
        if self._waiting:
            return self._waiting.popleft()
        if self._suspects and not beside:
            return self._suspects.popleft()
        return None

    def settle(self, outcome: Outcome) -> None:
        """Take note of an outcome: failed attempts wait for another until they are used up."""
        error = outcome.error
        if outcome.status != "failed" or error is None:
            self._finish(outcome)
        elif error.is_fatal:
            self.is_fatal = True
            self._finish(outcome)
        elif outcome.item.attempt >= MAX_ATTEMPTS:
            self._finish(replace(outcome, status="quarantined"))
        else:
            self._on_outcome(outcome)
            self._wait_again(replace(outcome.item, attempt=outcome.item.attempt + 1))

    def lose(
        self,
        worker: str,
        items: Iterable[WorkItem],
        charged: WorkItem | None,
        reason: str,
        *,
        is_excused: bool = False,
    ) -> None:
        """Take back what was on a worker that died; only `charged` loses an attempt.

        Parameters
        ----------
        worker
            Who died.
        items
            What was in flight.
        charged
            The item that the worker had started last, if that is unfinished.
        reason
            What is known about the death.
        is_excused
            Whether the machine went, and not only the worker: then no item is suspected, and
            `charged` keeps its attempt, unless that has happened to it too often.
        """
        for item in items:
            key = (item.pass_name, item.shard)
            self._n_excused[key] += is_excused and item == charged
            if is_excused and (item != charged or self._n_excused[key] <= MAX_EXCUSED):
                self._excuse(item, worker, reason if item == charged else "")
                continue
            self._suspected.add(key)
            if item == charged:
                error = ShardError(WORKER_LOST, reason, "", item.shard)
                self.settle(Outcome(item, "failed", worker=worker, error=error))
            else:
                self._wait_again(item)

    def _excuse(self, item: WorkItem, worker: str, reason: str) -> None:
        if reason:
            error = ShardError(NODE_LOST, reason, "", item.shard)
            self._on_outcome(Outcome(item, "failed", worker=worker, error=error))
        self._wait_again(item)

    def _wait_again(self, item: WorkItem) -> None:
        is_suspect = (item.pass_name, item.shard) in self._suspected
        (self._suspects if is_suspect else self._waiting).append(item)

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._on_outcome(outcome)
