from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import explainers
from pipeline.engine import Outcome, Settings, WorkItem, engines
from pipeline.errors import EngineError, PlanError
from tests.pipeline.toy_tasks import Toy, log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.engine import Engine
    from tests.pipeline.drills import Seen

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(explainers.__file__).parents[1]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engines.get("ray")(Settings(workers=2, paths=(str(ROOT),))) as engine:
        yield engine


def run(engine: Engine, task: Toy, n: int) -> tuple[list[Outcome], list[Outcome]]:
    told: list[Outcome] = []
    items = [WorkItem("explain", shard) for shard in range(n)]
    return engine.map(task, items, on_outcome=told.append, stop=lambda: False), told


def statuses(outcomes: list[Outcome]) -> dict[int, str]:
    return {outcome.item.shard: outcome.status for outcome in outcomes}


@pytest.mark.parametrize("is_background", [False, True])
def test_every_item_is_done_once(engine: Engine, tmp_path: Path, is_background: bool) -> None:
    outcomes, told = run(engine, Toy(str(tmp_path), is_background=is_background), 20)
    assert statuses(outcomes) == dict.fromkeys(range(20), "committed")
    assert sorted(log(tmp_path, "done")) == list(range(20))
    assert told == outcomes


def test_a_dead_actor_is_replaced_and_only_the_running_shard_is_charged(
    engine: Engine, tmp_path: Path
) -> None:
    outcomes, told = run(engine, Toy(str(tmp_path), kill_once=frozenset({3, 8}), seconds=0.01), 14)
    assert statuses(outcomes) == dict.fromkeys(range(14), "committed")
    attempts = {outcome.item.shard: outcome.item.attempt for outcome in outcomes}
    assert attempts == {shard: 2 if shard in (3, 8) else 1 for shard in range(14)}
    lost = [outcome for outcome in told if outcome.status == "failed"]
    assert [outcome.error.type for outcome in lost if outcome.error] == ["WorkerLost"] * 2


def test_a_poison_shard_is_quarantined_after_three_attempts(engine: Engine, tmp_path: Path) -> None:
    outcomes, told = run(engine, Toy(str(tmp_path), kill=frozenset({2})), 8)
    assert statuses(outcomes) == {
        shard: "quarantined" if shard == 2 else "committed" for shard in range(8)
    }
    assert Counter(log(tmp_path, "begun"))[2] == 3
    assert Counter(outcome.status for outcome in told) == {
        "committed": 7,
        "failed": 2,
        "quarantined": 1,
    }


def test_a_shard_that_kills_its_writer_is_found_though_another_was_computing(
    engine: Engine, tmp_path: Path
) -> None:
    task = Toy(str(tmp_path), kill_in_writer=frozenset({1}), is_background=True, seconds=0.01)
    outcomes, _ = run(engine, task, 6)
    expected = {shard: "quarantined" if shard == 1 else "committed" for shard in range(6)}
    assert statuses(outcomes) == expected


@pytest.mark.drill(4)
def test_a_user_exception_keeps_type_message_and_traceback(
    engine: Engine, tmp_path: Path, drill: Seen
) -> None:
    outcomes, _ = run(engine, Toy(str(tmp_path), fail=frozenset({1})), 4)
    (error,) = [outcome.error for outcome in outcomes if outcome.status == "quarantined"]
    assert error is not None
    assert (error.type, error.message, error.shard) == (
        "ZeroDivisionError",
        "shard 1 is poison",
        1,
    )
    assert "toy_tasks.py" in error.traceback
    drill(error.type, error.message, f"statuses {statuses(outcomes)}")


def test_a_full_disk_ends_the_mapping(engine: Engine, tmp_path: Path) -> None:
    outcomes, _ = run(engine, Toy(str(tmp_path), full_disk=frozenset({2}), seconds=0.02), 60)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert [error.is_fatal for error in errors] == [True]
    assert len(outcomes) < 12


def test_a_task_that_cannot_be_opened_is_an_engine_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such weights"):
        run(engine, Toy(str(tmp_path), cannot_open=True), 4)


def test_what_a_user_is_meant_to_read_comes_from_a_worker_as_it_is(
    engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(PlanError) as caught:
        run(engine, Toy(str(tmp_path), is_refused=True), 4)
    found = caught.value
    assert (found.what, found.fix) == ("maps differ", "take float32")
    assert (found.page, found.exit_code) == ("faster-passes-differ", 3)


def test_stop_finishes_what_is_in_flight(engine: Engine, tmp_path: Path) -> None:
    items = [WorkItem("explain", shard) for shard in range(50)]
    told: list[Outcome] = []
    outcomes = engine.map(
        Toy(str(tmp_path), seconds=0.02), items, on_outcome=told.append, stop=lambda: len(told) >= 3
    )
    assert 3 <= len(outcomes) <= 7
    assert sorted(log(tmp_path, "done")) == sorted(statuses(outcomes))
