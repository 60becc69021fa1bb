from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.engine import Outcome, Settings, WorkItem, cluster, engines
from pipeline.engine.platform import package_root, platform
from pipeline.errors import EngineError
from pipeline.task import NODE_LOST
from tests.pipeline.node_cluster import add_node, cluster_of_nodes
from tests.pipeline.node_tasks import Whereabouts, told
from tests.pipeline.tiny_run import run_tiny, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.engine import Engine
    from tests.pipeline.drills import Seen

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLINE_SECONDS = 200.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without processors, a node with a GPU that is not there, and one without."""
    with cluster_of_nodes() as found:
        add_node(
            found,
            num_cpus=2,
            num_gpus=1,
            labels={"market": "reserved"},
            resources={"accelerator_type:A100": 1},
        )
        with platform(Settings(address=found.address)):
            yield found


def engine_of(found: Any, **settings: Any) -> Engine:
    given = {"address": found.address, "paths": (str(package_root()),), "patience": 30.0}
    return engines.get("ray")(Settings(**{**given, **settings}))


def never() -> bool:
    return False


def run(
    engine: Engine, task: Whereabouts, n: int, stop: Callable[[], bool] = never
) -> tuple[list[Outcome], list[Outcome]]:
    heard: list[Outcome] = []
    items = [WorkItem("explain", shard) for shard in range(n)]
    with engine:
        return engine.map(task, items, on_outcome=heard.append, stop=stop), heard


def node_of(found: Any) -> str:
    (node,) = found.worker_nodes
    return str(node.node_id)


def test_shares_of_typed_gpus_land_on_the_node_that_has_them(nodes: Any, tmp_path: Path) -> None:
    engine = engine_of(
        nodes, gpus_per_worker=0.5, accelerator_type="A100", labels={"market": "!spot"}
    )
    outcomes, _ = run(engine, Whereabouts(str(tmp_path), seconds=0.3), 6)
    assert [outcome.status for outcome in outcomes] == ["committed"] * 6
    done = told(tmp_path, "done")
    assert {values["node"] for values in done} == {node_of(nodes)}
    assert {str(values["visible"]) for values in done} == {"0"}
    assert {values["resources"]["GPU"] for values in done} == {0.5}
    assert len({values["worker"] for values in done}) == 2


def test_nothing_fits_and_the_error_says_what_was_asked_and_what_is_there(
    nodes: Any, tmp_path: Path
) -> None:
    engine = engine_of(nodes, gpus_per_worker=2, labels={"market": "spot"}, patience=0.3)
    with pytest.raises(EngineError, match="GPU 2, market spot, and the cluster has") as caught:
        run(engine, Whereabouts(str(tmp_path)), 2)
    assert "CPU 2, GPU 1, accelerator_type:A100 1, market reserved" in caught.value.what
    assert not told(tmp_path, "begun")


class Storm:
    """Told of every turn: kills a node once it works, adds another, lets all go on at last."""

    def __init__(self, found: Any, folder: Path, victim: Any) -> None:
        self.found = found
        self.folder = folder
        self.victim = victim
        self.successor: Any = None
        self.until = time.monotonic() + DEADLINE_SECONDS

    def __call__(self) -> bool:
        if time.monotonic() > self.until:
            raise TimeoutError("no worker came up on the node that was added")
        at_work = {values["node"] for values in told(self.folder, "begun")}
        if self.successor is None and {node.node_id for node in self.found.worker_nodes} <= at_work:
            self.found.remove_node(self.victim, allow_graceful=False)
            self.successor = add_node(self.found, num_cpus=1)
        if self.successor is not None and self.successor.node_id in at_work:
            (self.folder / "go").touch()
        return False


@pytest.mark.drill(18)
def test_a_node_dies_another_one_comes_and_every_shard_is_done_once(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    from pipeline.engine import ray as ray_engine

    monkeypatch.setattr(ray_engine, "RECOUNT_SECONDS", 0.5)
    storm = Storm(nodes, tmp_path, add_node(nodes, num_cpus=1))
    task = Whereabouts(str(tmp_path), wait_for="go")
    # the GPU that Ray believes in is nobody's: workers without one must not see it
    outcomes, heard = run(engine_of(nodes, gpus_per_worker=0), task, 14, storm)
    assert Counter(outcome.item.shard for outcome in outcomes) == Counter(range(14))
    assert {(outcome.status, outcome.item.attempt) for outcome in outcomes} == {("committed", 1)}
    done = told(tmp_path, "done")
    assert [values["shard"] for values in done] == list(range(14))
    assert {values["visible"] for values in done} == {""}
    assert storm.successor.node_id in {values["node"] for values in done}
    (lost,) = [outcome.error for outcome in heard if outcome.error is not None]
    assert lost.type == NODE_LOST
    assert "node was lost" in lost.message
    nodes.remove_node(storm.successor, allow_graceful=False)
    drill(f"{len(outcomes)} of 14 shards committed, at attempt {outcomes[0].item.attempt}")
    drill(f"lost: {lost.message}")


@pytest.mark.long
def test_a_run_over_nodes_stores_the_bytes_of_one_in_this_process(
    nodes: Any, tmp_path: Path
) -> None:
    run_tiny(tmp_path / "here", tmp_path / "serial")
    over_nodes = {"kind": "ray", "address": nodes.address, "gpus_per_worker": 0}
    asked = {**over_nodes, "gpus_per_worker": 0.5}
    with pytest.raises(EngineError, match="given a GPU, but torch sees none"):
        run_tiny(tmp_path / "here", tmp_path / "pretended", engine=asked)
    summary = run_tiny(tmp_path / "here", tmp_path / "nodes", engine=over_nodes)
    assert summary.exit_code == 0
    assert stored(tmp_path / "nodes") == stored(tmp_path / "serial")


@pytest.mark.drill(6)
@pytest.mark.long
def test_a_worker_killed_for_memory_is_charged_and_the_message_says_so(
    nodes: Any, tmp_path: Path, drill: Seen
) -> None:
    node = add_node(
        nodes,
        # Ray's monitor finds the memory of this node used up, whatever is used
        {"RAY_memory_usage_threshold": "0.0", "RAY_memory_monitor_refresh_ms": "12000"},
        num_cpus=1,
        labels={"memory": "full"},
    )
    engine = engine_of(nodes, gpus_per_worker=0, labels={"memory": "full"})
    outcomes, heard = run(engine, Whereabouts(str(tmp_path), seconds=600.0), 1)
    nodes.remove_node(node, allow_graceful=False)
    assert [outcome.status for outcome in outcomes] == ["quarantined"]
    assert [outcome.item.attempt for outcome in heard] == [1, 2, 3]
    assert all("ran out of memory" in outcome.error.message for outcome in heard if outcome.error)
    drill(f"{len(heard)} attempts, then {outcomes[0].status}")
    drill(*{outcome.error.message for outcome in heard if outcome.error})


@pytest.mark.long
def test_the_journal_is_on_the_drivers_node_and_comes_again_when_it_is_killed(
    nodes: Any, tmp_path: Path
) -> None:
    import ray

    engine: Any = engine_of(nodes, gpus_per_worker=0, workers=1)
    with engine:
        journal = engine._journal
        ray.get(journal.started.remote("worker-0", ("explain", 1, 1)))
        ray.kill(journal, no_restart=False)
        until = time.monotonic() + DEADLINE_SECONDS
        # the one before it may still answer: Ray kills when it gets round to it
        while ray.get(journal.last.remote("worker-0")) is not None:
            assert time.monotonic() < until, "the journal was never killed"
            time.sleep(0.1)
        info = ray._private.state.actors(journal._actor_id.hex())
        assert info["Address"]["NodeID"] == ray.get_runtime_context().get_node_id()


def test_a_cluster_that_nothing_adds_nodes_to_is_known_as_such(nodes: Any) -> None:
    found = cluster.Cluster(Settings(address=nodes.address))
    assert not found.may_grow
    assert found.demand.gpus == 1.0  # the driver has none, but the node has
    assert found.worth_asking_for() == found.capacity() == 1
