"""Actors and what they have in flight; the work per turn grows with what is ready, not with them.

Ray calls back when a result is there, so nothing is asked of actors that have nothing to say, and
those that can take an item are kept by how many they have.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from pipeline.engine.queue import Queue
    from pipeline.task import WorkItem

IN_FLIGHT = 2
"""Shards per actor: one computes while the other is written or on its way."""


@dataclass(eq=False)
class Slot:
    """One actor and what it has in flight."""

    name: str
    actor: Any
    opening: Any = None
    """Reference that is ready when the task is open on the actor; None afterwards."""
    in_flight: dict[Any, WorkItem] = field(default_factory=dict)
    node: str = ""
    """Where it runs; empty until its first task is open."""
    death: BaseException | None = None
    """The first error that said that it is gone."""
    lost: list[WorkItem] = field(default_factory=list)
    """What it had in flight when it died."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be heard of it any more."""
        return self.opening is None and not self.in_flight


class Slots:
    """All actors of an engine; iterates over them in the order in which they were started."""

    def __init__(self) -> None:
        self._all: dict[Slot, None] = {}
        # by how many items they have; a dictionary is a set that keeps its order
        self._free: tuple[dict[Slot, None], ...] = tuple({} for _ in range(IN_FLIGHT))
        self._ready: queue.SimpleQueue[tuple[Slot, Any, Future[Any]]] = queue.SimpleQueue()
        self.n_in_flight = 0
        """Items that are on actors."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._all))

    def open(self, slot: Slot, task: bytes) -> None:
        """Open a task on an actor, after whatever it is opening now."""
        self._all[slot] = None
        slot.opening = slot.actor.open.remote(task, slot.opening)
        self._watch(slot, slot.opening)
        self._sort_in(slot)

    def feed(self, queue: Queue) -> None:
        """Hand out items: one each before a second one each."""
        for slots in self._free:
            starving: dict[Slot, None] = {}
            while slots and len(queue):
                slot = next(iter(slots))
                item = queue.take(slot.in_flight.values())
                if item is None:  # what waits must run alone
                    starving[slot] = slots.pop(slot)
                else:
                    self._submit(slot, item)
            slots.update(starving)

    def ready(self, timeout: float) -> Iterator[tuple[Slot, Any, Future[Any]]]:
        """Yield results that are there: actor, reference, value or error; wait for the first."""
        try:
            yield self._ready.get(timeout=timeout)
            while True:
                yield self._ready.get_nowait()
        except queue.Empty:
            return

    def land(self, slot: Slot, reference: Any) -> WorkItem | None:
        """Take note that a result has come; return its item, None if it is that of an opening."""
        item = slot.in_flight.pop(reference, None)
        if item is not None:
            self.n_in_flight -= 1
        elif reference == slot.opening:
            slot.opening = None
        self._sort_in(slot)
        return item

    def knows(self, slot: Slot, reference: Any) -> bool:
        """Say whether a result is one that is waited for, and not that of an earlier mapping."""
        return slot in self._all and (reference in slot.in_flight or reference == slot.opening)

    def bury(self, slot: Slot) -> None:
        """Forget an actor and kill it: one that cannot be reached may be alive and hold a GPU."""
        import ray

        self._all.pop(slot, None)
        for slots in self._free:
            slots.pop(slot, None)
        self.n_in_flight -= len(slot.in_flight)
        ray.kill(slot.actor, no_restart=True)

    def mourn(self, slot: Slot, error: BaseException, item: WorkItem | None) -> None:
        """Take note that an actor is gone; what else it had in flight is still heard of."""
        import ray

        if slot.death is None:
            slot.death = error
            ray.kill(slot.actor, no_restart=True)
        if item is not None:
            slot.lost.append(item)
        self._sort_in(slot)

    def _submit(self, slot: Slot, item: WorkItem) -> None:
        reference = slot.actor.run.remote(item)
        slot.in_flight[reference] = item
        self.n_in_flight += 1
        self._watch(slot, reference)
        self._sort_in(slot)

    def _watch(self, slot: Slot, reference: Any) -> None:
        reference.future().add_done_callback(partial(self._tell, slot, reference))

    def _tell(self, slot: Slot, reference: Any, future: Future[Any]) -> None:
        """Take a result; called on a thread of Ray's."""
        self._ready.put((slot, reference, future))

    def _sort_in(self, slot: Slot) -> None:
        for slots in self._free:
            slots.pop(slot, None)
        is_open = slot.opening is None and slot.death is None and slot in self._all
        if is_open and len(slot.in_flight) < IN_FLIGHT:
            self._free[len(slot.in_flight)][slot] = None
