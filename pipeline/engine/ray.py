"""Ray Core actors fed from the driver: pull scheduling, replaced when they die."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.engine import Engine, Settings, engines, host
from pipeline.engine.platform import package_root, platform
from pipeline.engine.queue import Queue
from pipeline.errors import EngineError
from pipeline.task import Outcome, ShardError, WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.task import Task

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Shards per actor: one computes while the other is written or on its way."""
POLL_SECONDS = 0.2
"""How often a stop is looked for while nothing happens."""
MAX_IDLE_LOSSES = 10
"""Workers lost in a row before they started anything; more means that the machine kills them."""


@dataclass(eq=False)
class Slot:
    """One actor and what it has in flight."""

    name: str
    actor: Any
    opening: Any
    """Reference that is ready when the task is open on the actor; None afterwards."""
    in_flight: dict[Any, WorkItem] = field(default_factory=dict)


@engines.register("ray")
class RayEngine(Engine):
    """Actors that stay alive between passes; a Ray that runs already is joined and left running."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._platform = contextlib.ExitStack()
        self._slots: list[Slot] = []
        self._journal: Any = None
        self._n_started = 0
        self._gpus = 0.0
        self._task = b""

    def start(self) -> None:
        """Start Ray, or join it where it runs already."""
        import ray

        if not ray.is_initialized():
            self._platform.enter_context(platform(self.settings))
        self._gpus = _gpus_per_worker(self.settings)
        self._journal = _remote(host.Journal).options(num_cpus=0).remote()

    def map(
        self,
        task: Task,
        items: Iterable[WorkItem],
        *,
        on_outcome: Callable[[Outcome], None],
        stop: Callable[[], bool],
    ) -> list[Outcome]:
        """Feed the actors until every item is through."""
        from ray import cloudpickle

        waiting = list(items)
        queue = Queue(waiting, on_outcome)
        self._task = cloudpickle.dumps(task)
        for slot in self._slots:
            slot.opening = slot.actor.open.remote(self._task, slot.opening)
        for _ in range(min(self._n_workers(), len(waiting)) - len(self._slots)):
            self._slots.append(self._start_slot())
        try:
            self._work_off(queue, stop)
        except BaseException:
            # what is in flight must not go on into the next mapping
            self._kill_slots()
            raise
        return queue.outcomes

    def close(self) -> None:
        """Kill the actors, and shut Ray down if it was started or joined here."""
        import ray

        self._kill_slots()
        if self._journal is not None:
            ray.kill(self._journal, no_restart=True)
            self._journal = None
        self._platform.close()

    def _kill_slots(self) -> None:
        import ray

        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots.clear()

    def _work_off(self, queue: Queue, stop: Callable[[], bool]) -> None:
        n_idle_losses = 0
        while self._feed(queue, is_ending=stop() or queue.is_fatal):
            for slot in self._ready_slots():
                n_idle_losses = 0 if self._collect(slot, queue) else n_idle_losses + 1
                if n_idle_losses > MAX_IDLE_LOSSES:
                    raise EngineError(
                        f"{n_idle_losses} workers died in a row before they started a shard",
                        fix="give workers more memory or start fewer of them (engine.workers)",
                    )

    def _n_workers(self) -> int:
        """Return how many actors to ask for; those that find no room wait for it."""
        import ray

        if self.settings.workers != "auto":
            return int(self.settings.workers)
        resources = ray.cluster_resources()
        if self._gpus:
            return max(1, int(resources.get("GPU", 0) / self._gpus))
        return max(1, int(resources.get("CPU", 1) // self.settings.threads))

    def _start_slot(self) -> Slot:
        name = f"worker-{self._n_started}"
        self._n_started += 1
        options = {"num_cpus": self.settings.threads, "num_gpus": self._gpus, "max_restarts": 0}
        actor = (
            _remote(host.Host)
            .options(max_concurrency=IN_FLIGHT, **options)
            .remote(name, self._journal, self.settings.threads, _import_paths(self.settings))
        )
        return Slot(name, actor, actor.open.remote(self._task))

    def _feed(self, queue: Queue, *, is_ending: bool) -> bool:
        """Hand out items; return whether there is anything left to wait for."""
        if not is_ending:
            for _ in range(IN_FLIGHT):  # one each before a second one each
                for slot in self._slots:
                    if slot.opening is None and len(slot.in_flight) < IN_FLIGHT:
                        item = queue.take(slot.in_flight.values())
                        if item is not None:
                            slot.in_flight[slot.actor.run.remote(item)] = item
            if len(queue):
                return True
        return any(slot.in_flight for slot in self._slots)

    def _ready_slots(self) -> list[Slot]:
        import ray

        owners: dict[Any, Slot] = {}
        for slot in self._slots:
            owners.update(dict.fromkeys(slot.in_flight, slot))
            if slot.opening is not None:
                owners[slot.opening] = slot
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_SECONDS)
        return [owners[reference] for reference in ready]

    def _collect(self, slot: Slot, queue: Queue) -> bool:
        """Settle what is ready on one actor; return False if it died with nothing started."""
        import ray

        references = list(slot.in_flight)
        if slot.opening is not None:
            references.append(slot.opening)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        reason = ""
        for reference in ready:
            try:
                value = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                reason = str(error)
                continue
            except ray.exceptions.RayTaskError as error:
                self._settle_task_error(slot, reference, error, queue)
                continue
            if reference is slot.opening or reference == slot.opening:
                slot.opening = None
            else:
                del slot.in_flight[reference]
                queue.settle(value)
        return not reason or self._replace(slot, queue, reason)

    def _settle_task_error(
        self, slot: Slot, reference: Any, error: Exception, queue: Queue
    ) -> None:
        if reference == slot.opening:
            raise EngineError(
                f"{slot.name} cannot open its task: {error}",
                fix="the traceback names the cause; `engine.kind: serial` runs it in this process",
            ) from error
        item = slot.in_flight.pop(reference)
        record = ShardError.of(error, item.shard)
        queue.settle(Outcome(item, "failed", worker=slot.name, error=record))

    def _replace(self, slot: Slot, queue: Queue, reason: str) -> bool:
        """Take items back from a dead actor and start another one in its place."""
        started = self._last_started(slot)
        items = list(slot.in_flight.values())
        charged = next(
            (item for item in items if (item.pass_name, item.shard, item.attempt) == started), None
        )
        logger.warning("%s died%s", slot.name, f" in shard {charged.shard}" if charged else "")
        queue.lose(slot.name, items, charged, reason)
        self._slots[self._slots.index(slot)] = self._start_slot()
        return charged is not None

    def _last_started(self, slot: Slot) -> tuple[str, int, int] | None:
        import ray

        last: tuple[str, int, int] | None = ray.get(self._journal.last.remote(slot.name))
        return last


def _remote(cls: type) -> Any:
    """Return the actor class, pickled by value: see `pipeline.engine.host`."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(host)
    return ray.remote(cls)


def _import_paths(settings: Settings) -> tuple[str, ...]:
    """Return the folder of our own packages, then those of the run."""
    return (str(package_root()), *settings.paths)


def _gpus_per_worker(settings: Settings) -> float:
    import torch

    if settings.gpus_per_worker != "auto":
        return float(settings.gpus_per_worker)
    return 1.0 if torch.cuda.is_available() else 0.0
