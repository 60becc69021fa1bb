from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import Cost, Round, Scan
from pipeline import reduce, trust
from pipeline.ledger import Entry, Ledger
from pipeline.sinks import states

if TYPE_CHECKING:
    from pathlib import Path

    from explainers import Result, Samples, State, Trace


@dataclass(frozen=True)
class Order(Scan):
    """Remembers the order in which states are merged."""

    @property
    def cost(self) -> Cost:
        return Cost()

    def init(self) -> State:
        return {"seen": torch.zeros(0)}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        raise NotImplementedError

    def merge(self, left: State, right: State) -> State:
        return {"seen": torch.cat([left["seen"], right["seen"]])}

    def finalise(self, state: State) -> Result:
        return dict(state)


def test_states_are_merged_in_shard_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    for shard in (2, 10, 0, 1):
        states.write(tmp_path, "order", "all", shard, {"seen": torch.tensor([float(shard)])})
    each = Round("all", Order())
    result = reduce.finalise(str(tmp_path), "order", each, {10: 0, 2: 0, 0: 0})
    assert result["seen"].tolist() == [0, 2, 10]
    assert reduce.finalise(str(tmp_path), "order", each, ())["seen"].tolist() == []


def entry(shard: int, digest: str = "d", name: str = "states/x") -> Entry:
    return Entry("explain", shard, digest, objects={name: "0"})


def test_only_records_of_this_run_whose_objects_exist_are_trusted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "x").touch()
    ledger.commit(entry(0))
    ledger.commit(entry(1, digest="other"))
    ledger.commit(entry(2, name="states/gone"))
    ledger.commit(entry(3))
    (tmp_path / "ledger" / "explain" / "3.json").write_text("{")
    assert list(trust.settle(str(tmp_path), "explain", "d")) == [0]
    assert ledger.shards("explain") == (0,)


def test_a_pass_is_done_again_when_what_it_builds_on_has_changed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "x").touch()
    first = trust.basis_of("statistics", {0: entry(0)})
    assert trust.settle(str(tmp_path), "explain", "d", first) == {}
    ledger.commit(entry(0))
    assert list(trust.settle(str(tmp_path), "explain", "d", first)) == [0]
    second = trust.basis_of("statistics", {0: entry(0), 1: entry(1)})
    assert trust.settle(str(tmp_path), "explain", "d", second) == {}
    assert ledger.shards("explain") == ()


def test_a_result_belongs_to_the_records_it_was_made_from(tmp_path: Path) -> None:
    assert not trust.is_result_of(str(tmp_path), "statistics", "one")
    trust.note_result_of(str(tmp_path), "statistics", "one")
    assert trust.is_result_of(str(tmp_path), "statistics", "one")
    assert not trust.is_result_of(str(tmp_path), "statistics", "two")
