"""Ray Core actors fed from the driver: pull scheduling, replaced when they die."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from pipeline.engine import Engine, Settings, engines, host
from pipeline.engine.cluster import RECOUNT_SECONDS, Cluster
from pipeline.engine.losses import is_loss, loss_of
from pipeline.engine.platform import package_root, platform
from pipeline.engine.queue import Queue
from pipeline.engine.slots import IN_FLIGHT, Slot, Slots
from pipeline.errors import EngineError, XpipeError
from pipeline.task import Outcome, ShardError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from pipeline.task import Task, WorkItem

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""How often a stop is looked for while nothing happens."""
MAX_IDLE_LOSSES = 10
"""Workers lost in a row before they started anything; more means that the machine kills them."""


@engines.register("ray")
class RayEngine(Engine):
    """Actors that stay alive between passes; a Ray that runs already is joined and left running."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._platform = contextlib.ExitStack()
        self._slots = Slots()
        self._cluster: Cluster
        self._journal: Any = None
        self._n_started = 0
        self._n_idle_losses = 0
        self._counted = 0.0
        self._task = b""

    def start(self) -> None:
        """Start Ray, or join it where it runs already."""
        import ray

        if not ray.is_initialized():
            self._platform.enter_context(platform(self.settings))
        self._cluster = Cluster(self.settings)
        self._journal = _start_journal()

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

        queue = Queue(list(items), on_outcome)
        self._task = cloudpickle.dumps(task)
        self._n_idle_losses = 0
        try:
            for slot in self._slots:
                self._slots.open(slot, self._task)
            self._fit(queue)
            self._work_off(queue, stop)
        except BaseException:
            # what is in flight must not go on into the next mapping
            self._bury_all()
            raise
        self._withdraw()
        return queue.outcomes

    def close(self) -> None:
        """Kill the actors, and shut Ray down if it was started or joined here."""
        import ray

        self._bury_all()
        if self._journal is not None:
            ray.kill(self._journal, no_restart=True)
            self._journal = None
        self._platform.close()

    def _bury_all(self) -> None:
        for slot in self._slots:
            self._slots.bury(slot)

    def _withdraw(self) -> None:
        """Give up actors that never found room, lest a node is started for them now."""
        if self._cluster.may_grow:
            for slot in self._slots:
                if not slot.node:
                    self._slots.bury(slot)

    def _work_off(self, queue: Queue, stop: Callable[[], bool]) -> None:
        while True:
            is_ending = stop() or queue.is_fatal
            if not is_ending:
                self._slots.feed(queue)
            if not self._slots.n_in_flight and (is_ending or not len(queue)):
                return
            for slot, reference, future in self._slots.ready(POLL_SECONDS):
                if self._slots.knows(slot, reference):
                    self._settle(slot, reference, future, queue)
            if len(queue) and time.monotonic() - self._counted >= RECOUNT_SECONDS:
                self._fit(queue)

    def _fit(self, queue: Queue) -> None:
        """Ask for as many actors as are wanted now, and look whether any has found room."""
        self._counted = time.monotonic()
        for _ in range(min(self._n_workers() - len(self._slots), len(queue))):
            self._start_slot()
        if any(slot.node for slot in self._slots):
            self._cluster.found_room()
        elif len(queue):
            self._cluster.wait_for_room()

    def _n_workers(self) -> int:
        """Return how many actors to ask for; those that find no room wait for it."""
        if self.settings.workers != "auto":
            return int(self.settings.workers)
        return self._cluster.worth_asking_for()

    def _start_slot(self) -> None:
        name = f"worker-{self._n_started}"
        self._n_started += 1
        self._slots.open(Slot(name, self._start_actor(name)), self._task)

    def _start_actor(self, name: str) -> Any:
        """Return the handle of a new actor that has the methods of `host.Host`."""
        demand = self._cluster.demand
        options = {
            "num_cpus": demand.threads,
            "num_gpus": demand.gpus,
            "accelerator_type": demand.accelerator_type,
            "label_selector": dict(demand.labels) or None,
            "resources": dict(demand.resources) or None,
            "max_restarts": 0,
            "max_concurrency": IN_FLIGHT,
        }
        given = {key: value for key, value in options.items() if value is not None}
        try:
            actor = _remote(host.Host).options(**given)
        except (TypeError, ValueError) as error:
            raise EngineError(
                f"Ray does not take what a worker asks for ({demand}): {error}",
                fix="mend engine.labels, resources or accelerator_type",
            ) from error
        return actor.remote(
            name, self._journal, demand.threads, demand.gpus > 0, _import_paths(self.settings)
        )

    def _settle(self, slot: Slot, reference: Any, future: Future[Any], queue: Queue) -> None:
        """Deal with one result: a task that is open, an outcome, an error or a death."""
        item = self._slots.land(slot, reference)
        error = future.exception()
        if error is None:
            self._n_idle_losses = 0
            if item is None:
                slot.node = future.result()
            else:
                queue.settle(future.result())
        elif is_loss(error):
            self._slots.mourn(slot, error, item)
        elif item is None:
            raise _opening_error(slot.name, error) from error
        else:
            record = ShardError.of(error, item.shard)
            queue.settle(Outcome(item, "failed", worker=slot.name, error=record))
        # others that it had in flight may have been done before it died: they are waited for
        if slot.death is not None and slot.is_silent:
            self._replace(slot, slot.death, queue)

    def _replace(self, slot: Slot, death: BaseException, queue: Queue) -> None:
        """Take items back from a dead actor and start another one in its place."""
        loss = loss_of(death, slot.node, [node.name for node in self._cluster.nodes()])
        started = self._last_started(slot)
        charged = next(
            (item for item in slot.lost if (item.pass_name, item.shard, item.attempt) == started),
            None,
        )
        logger.warning("%s died%s", slot.name, f" in shard {charged.shard}" if charged else "")
        self._slots.bury(slot)
        queue.lose(slot.name, slot.lost, charged, loss.reason, is_excused=loss.is_excused)
        if charged is None and not loss.is_excused:
            self._n_idle_losses += 1
            if self._n_idle_losses > MAX_IDLE_LOSSES:
                raise EngineError(
                    f"{self._n_idle_losses} workers died in a row before they started a shard; "
                    f"the last one: {loss.reason}",
                    fix="give workers more memory or start fewer of them (engine.workers)",
                    page="workers-die",
                )
        self._fit(queue)

    def _last_started(self, slot: Slot) -> tuple[str, int, int] | None:
        import ray

        last: tuple[str, int, int] | None = ray.get(self._journal.last.remote(slot.name))
        return last


def _opening_error(worker: str, error: BaseException) -> XpipeError:
    """Return what to raise where a task cannot be opened: what a user is meant to read as it is."""
    cause = getattr(error, "cause", None)  # what Ray's error was raised for on the actor
    if isinstance(cause, XpipeError):
        return cause
    return EngineError(
        f"{worker} cannot open its task: {error}",
        fix="the traceback names the cause; `engine.kind: serial` runs it in this process",
        page="workers-die",
    )


def _start_journal() -> Any:
    """Return the journal, on the driver's node: whatever else is lost, the run needs that one.

    Killed there (for memory, say) it comes again and has forgotten: then nobody is charged.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        _remote(host.Journal)
        .options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        .remote()
    )


def _remote(cls: type) -> Any:
    """Return the actor class, pickled by value: see `pipeline.engine.host`."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(host)
    return ray.remote(cls)


def _import_paths(settings: Settings) -> tuple[str, ...]:
    """Return the folder of our own packages, then those of the run."""
    return (str(package_root()), *settings.paths)
