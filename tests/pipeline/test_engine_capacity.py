from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import MAX_ATTEMPTS, MAX_EXCUSED, Outcome, Settings, WorkItem, cluster
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
    started, waited = queue.take(), queue.take()
    assert started is not None
    assert waited is not None
    queue.lose("worker-0", [started, waited], charged=started, reason="gone", is_excused=True)
    assert [outcome.item for outcome in told] == [started]
    # both are given out beside others: a suspect would run alone
    assert [queue.take([items[2]]) for _ in range(3)] == [items[2], started, waited]


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


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, False),
        ({"autoscaler_report": {"node_type_mapping": {"f0": "ray.head.default"}}}, True),
        ({"autoscaler_report": {"node_type_mapping": {"f0": "node_f0"}}}, False),
        ({"autoscaler_report": {"node_type_mapping": None}}, False),
    ],
)
def test_an_autoscaler_is_known_by_the_types_of_nodes_that_it_reports(
    monkeypatch: pytest.MonkeyPatch, status: dict[str, Any] | None, expected: bool
) -> None:
    from ray.autoscaler.v2 import utils
    from ray.experimental import internal_kv

    from pipeline.engine.cluster import _has_autoscaler

    stored = None if status is None else json.dumps(status).encode()
    monkeypatch.setattr(utils, "is_autoscaler_v2", lambda fetch_from_server: False)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", {b"__autoscaling_status": stored}.get)
    assert _has_autoscaler() is expected


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Return the nodes of a cluster that grows; a test may add some."""
    nodes = [Node("head", {"CPU": 2})]
    monkeypatch.setattr(cluster, "_has_autoscaler", lambda: True)
    monkeypatch.setattr(cluster.Cluster, "nodes", lambda _: nodes)
    return nodes


def test_a_cluster_that_grows_and_has_no_gpu_yet_is_not_taken_for_one_without(
    growing: list[Node],
) -> None:
    with pytest.raises(EngineError, match="no GPU now") as caught:
        cluster.Cluster(Settings(address="auto"))
    assert caught.value.page == "gpus-not-known"
    typed = cluster.Cluster(Settings(address="auto", accelerator_type="A100"))
    assert typed.demand.gpus == 1.0
    assert cluster.Cluster(Settings(address="auto", gpus_per_worker=0)).demand.gpus == 0.0
    growing.append(Node("a", {"CPU": 8, "GPU": 8}))
    assert cluster.Cluster(Settings(address="auto")).demand.gpus == 1.0


def test_an_autoscaler_is_asked_for_as_much_again_as_there_is(growing: list[Node]) -> None:
    found = cluster.Cluster(Settings(address="auto", gpus_per_worker=1))
    asked = [found.worth_asking_for()]
    for index in range(3):
        growing.append(Node(f"gpu-{index}", {"CPU": 4, "GPU": 2}))
        asked.append(found.worth_asking_for())
    assert asked == [1, 4, 8, 12]


def test_how_long_a_node_is_waited_for_depends_on_whether_one_may_come(
    growing: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    found = cluster.Cluster(Settings(address="auto", gpus_per_worker=1))
    for clock[0] in (0.0, 100.0, cluster.GROWING_PATIENCE - 1):
        found.wait_for_room()
    clock[0] = cluster.GROWING_PATIENCE
    with pytest.raises(
        EngineError, match=r"it takes CPU 1, GPU 1, and the cluster has 1 x \(CPU 2"
    ):
        found.wait_for_room()
    growing.append(Node("a", {"CPU": 1, "GPU": 1}))
    clock[0] += 10 * cluster.GROWING_PATIENCE
    found.wait_for_room()  # others have the room: that is waited for
    here = cluster.Cluster(Settings(gpus_per_worker=3))
    with pytest.raises(EngineError, match="the machine has"):
        here.wait_for_room()


def test_deaths_are_told_apart() -> None:
    from ray import exceptions

    from pipeline.engine.losses import is_loss, loss_of

    alive = ["a", "b"]
    died = exceptions.ActorDiedError()
    preempted = exceptions.ActorDiedError()
    preempted._preempted = True
    cases = [
        (died, "a", False, "died unexpectedly"),
        (died, "gone", True, "node was lost"),
        (died, "", False, "died unexpectedly"),
        (preempted, "a", True, "preempted"),
        (exceptions.ActorUnavailableError("socket closed", None), "a", True, "node was lost"),
        (exceptions.OutOfMemoryError("1 worker(s) were killed"), "a", False, "out of memory"),
        (exceptions.NodeDiedError("x"), "a", True, "node was lost"),
    ]
    for error, node, is_excused, text in cases:
        assert is_loss(error)
        loss = loss_of(error, node, alive)
        assert loss.is_excused is is_excused
        assert text in loss.reason
    assert not is_loss(exceptions.RuntimeEnvSetupError("no such package"))
