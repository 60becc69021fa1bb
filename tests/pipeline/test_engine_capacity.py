from __future__ import annotations

import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import MAX_ATTEMPTS, MAX_EXCUSED, Outcome, Settings, WorkItem
from pipeline.engine.capacity import Demand, Node, is_match, shapes
from pipeline.engine.queue import Queue
from pipeline.errors import EngineError
from pipeline.events import ShardFailed, WorkerLost
from pipeline.session import _events
from pipeline.task import NODE_LOST

GPUS = Node("a", {"CPU": 16, "GPU": 2, "accelerator_type:A100": 1}, {"market": "spot"})
MORE = Node("b", {"CPU": 4, "GPU": 8, "accelerator_type:H100": 1}, {"market": "reserved"})
CPUS = Node("c", {"CPU": 6, "rack": 1.5})
CLUSTER = [GPUS, MORE, CPUS]


@pytest.mark.parametrize(
    ("demand", "n"),
    [
        (Demand(), 26),
        (Demand(threads=4), 4 + 1 + 1),
        (Demand(gpus=1), 2 + 4),  # four processors keep the other half of eight GPUs idle
        (Demand(gpus=0.5), 4 + 4),
        (Demand(gpus=0.6), 2 + 4),  # two shares of 0.6 do not fit on one GPU
        (Demand(gpus=0.3333), 6 + 4),
        (Demand(gpus=4), 0 + 2),
        (Demand(gpus=1, accelerator_type="A100"), 2),
        (Demand(gpus=1, accelerator_type="L4"), 0),
        (Demand(gpus=1, labels={"market": "!spot"}), 4),
        (Demand(labels={"market": "!spot"}), 4 + 6),
        (Demand(labels={"market": "in(spot, reserved)"}), 16 + 4),
        (Demand(resources={"rack": 0.5}), 3),
        (Demand(resources={"rack": 2}), 0),
        (Demand(threads=7), 2),
    ],
)
def test_workers_are_counted_under_all_that_they_take(demand: Demand, n: int) -> None:
    assert demand.workers_in(CLUSTER) == n


@pytest.mark.parametrize("gpus", [0.1, 0.25, 0.3, 0.5, 0.7, 1.0])
def test_shares_are_counted_as_one_by_one_placement_counts_them(gpus: float) -> None:
    node = Node("n", {"CPU": 100, "GPU": 3})
    free, n = [1.0] * 3, 0
    for _ in itertools.count():
        place = next((index for index, left in enumerate(free) if left >= gpus - 1e-9), None)
        if place is None:
            break
        free[place] -= gpus
        n += 1
    assert Demand(gpus=gpus).workers_on(node) == n


@pytest.mark.parametrize(
    ("selector", "value", "expected"),
    [
        ("spot", "spot", True),
        ("spot", "reserved", False),
        ("spot", None, False),
        ("!spot", "reserved", True),
        ("!spot", None, True),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("!in(a, b)", "c", True),
        ("!in(a, b)", "a", False),
    ],
)
def test_labels_match_as_ray_says(selector: str, value: str | None, expected: bool) -> None:
    assert is_match(selector, value) is expected


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(resources={"GPU": 1}), "gpus_per_worker"),
        (Settings(resources={"CPU": 1}), "engine.threads"),
        (Settings(accelerator_type="A100"), "take no GPU"),
    ],
)
def test_a_demand_that_contradicts_itself_is_refused(settings: Settings, told: str) -> None:
    with pytest.raises(EngineError, match=told):
        Demand.of(settings, gpus=0.0)


def test_more_than_one_gpu_is_a_whole_number() -> None:
    with pytest.raises(EngineError, match=r"1\.5"):
        Demand(gpus=1.5)


def test_demand_and_cluster_are_told_in_words() -> None:
    demand = Demand(threads=2, gpus=0.5, accelerator_type="A100", labels={"market": "!spot"})
    assert str(demand) == "CPU 2, GPU of type A100 0.5, market !spot"
    internal = Node("d", {"CPU": 6, "rack": 1.5, "node:10.0.0.1": 1, "memory": 1e9})
    assert shapes([CPUS, internal]) == "2 x (CPU 6, rack 1.5)"
    assert shapes([]) == "no node at all"


def lost(queue: Queue, *, is_excused: bool) -> WorkItem:
    item = queue.take()
    assert item is not None
    queue.lose("worker-0", [item], charged=item, reason="gone", is_excused=is_excused)
    return item


def test_a_lost_machine_uses_up_no_attempt_but_a_shard_that_takes_each_along_is_given_up() -> None:
    told: list[Outcome] = []
    queue = Queue([WorkItem("explain", 0)], told.append)
    attempts = [lost(queue, is_excused=True).attempt for _ in range(MAX_EXCUSED + MAX_ATTEMPTS)]
    assert attempts == [1] * MAX_EXCUSED + list(range(1, MAX_ATTEMPTS + 1))
    kinds = [(outcome.status, outcome.error.type) for outcome in told if outcome.error]
    assert kinds[:MAX_EXCUSED] == [("failed", NODE_LOST)] * MAX_EXCUSED
    assert kinds[-1] == ("quarantined", "WorkerLost")
    assert not len(queue)


def test_what_a_lost_machine_had_not_started_is_neither_told_nor_suspected() -> None:
    told: list[Outcome] = []
    items = [WorkItem("explain", shard) for shard in range(3)]
    queue = Queue(items, told.append)
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    for _ in range(MAX_EXCUSED + 1):
        queue.lose("worker-0", [second], charged=None, reason="gone", is_excused=True)
        third = queue.take([first])  # beside another one: it is not suspected
        assert third is not None
        second = queue.take([first]) if len(queue) == 1 else third
        assert second is not None
    assert not told


def test_a_lost_machine_is_told_as_a_lost_worker_and_not_as_a_failed_shard() -> None:
    told: list[Outcome] = []
    for is_excused in (True, False):
        lost(Queue([WorkItem("explain", 0)], told.append), is_excused=is_excused)
    kinds = [[type(event) for event in _events(outcome)] for outcome in told]
    assert kinds == [[WorkerLost], [WorkerLost, ShardFailed]]


class FakeActor:
    """Takes calls and never answers."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.open = self.run = SimpleNamespace(remote=self._call)

    def _call(self, *_: Any) -> Any:
        self.n_calls += 1
        return FakeReference()


class FakeReference:
    def future(self) -> Any:
        return SimpleNamespace(add_done_callback=lambda _: None)


def test_every_actor_gets_one_item_before_any_gets_two() -> None:
    from pipeline.engine.slots import Slot, Slots

    slots = Slots()
    members = [Slot(f"worker-{index}", FakeActor()) for index in range(4)]
    for slot in members:
        slots.open(slot, b"")
    queue = Queue([WorkItem("explain", shard) for shard in range(9)], lambda _: None)
    slots.feed(queue)
    assert len(queue) == 9  # nothing is open yet
    for slot in members[:3]:
        slots.land(slot, slot.opening)
    queue_of_four = Queue([WorkItem("explain", shard) for shard in range(4)], lambda _: None)
    slots.feed(queue_of_four)
    assert Counter(len(slot.in_flight) for slot in members) == {0: 1, 1: 2, 2: 1}
    slots.feed(queue)
    assert [len(slot.in_flight) for slot in members] == [2, 2, 2, 0]
    assert slots.n_in_flight == 6
    reference = next(iter(members[1].in_flight))
    slots.land(members[1], reference)
    slots.feed(queue)
    assert [len(slot.in_flight) for slot in members] == [2, 2, 2, 0]
    assert not slots.knows(members[1], reference)
