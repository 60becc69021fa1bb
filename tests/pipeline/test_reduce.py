from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch

from explainers import Cost, Round, Scan
from pipeline import reduce, trust
from pipeline.errors import StoreError
from pipeline.ledger import Entry, Ledger
from pipeline.sinks import states

if TYPE_CHECKING:
    from collections.abc import Collection
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


@dataclass(frozen=True)
class ByLayer(Order):
    """Adds up numbers by layer, and remembers which entries it was given together."""

    given: list[list[str]] = field(default_factory=list)

    def init(self) -> State:
        return {}

    def merge(self, left: State, right: State) -> State:
        return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}

    def groups(self, names: Collection[str]) -> list[list[str]]:
        layers = sorted({name[0] for name in names} - {"z"})
        return [[name for name in names if name[0] in (layer, "z")] for layer in layers]

    def finalise(self, state: State) -> Result:
        self.given.append(list(state))
        return {name[0]: {name[2:]: value} for name, value in state.items()}


def test_states_are_reduced_group_by_group_and_read_no_further(tmp_path: Path) -> None:
    one, two = torch.ones(3), torch.full((2, 2), 2.0, dtype=torch.float64)
    every = [
        {"b/n": one, "z/n": torch.tensor(1)},
        {},
        {"a/n": two, "b/n": 3 * one, "z/n": torch.tensor(2)},
    ]
    for shard, state in enumerate(every):
        states.write(tmp_path, "sums", "all", shard, state)
    scan = ByLayer()
    parts = reduce.parts(str(tmp_path), "sums", Round("all", scan), range(3))
    first = next(parts)
    assert scan.given == [["a/n", "z/n"]]
    assert torch.equal(first["a"]["n"], two)
    assert first["z"]["n"] == 3
    second = next(parts)
    assert torch.equal(second["b"]["n"], 4 * one)
    assert second["b"]["n"].dtype == torch.float32
    assert next(parts, None) is None
    assert states.names(tmp_path, "sums", "all", 2) == ("a/n", "b/n", "z/n")
    assert list(states.read(tmp_path, "sums", "all", 2, {"b/n", "a/n", "c/n"})) == ["a/n", "b/n"]


def test_a_damaged_state_is_named_when_parts_of_it_are_read(tmp_path: Path) -> None:
    objects = states.write(tmp_path, "sums", "all", 0, {"a/n": torch.ones(3)})
    (path,) = (tmp_path / name for name in objects)
    content = path.read_bytes()
    for broken in (b"", b"\xff" * 20, content[:20], content[:-4]):
        path.write_bytes(broken)
        with pytest.raises(StoreError, match="verify --repair"):
            reduce.finalise(str(tmp_path), "sums", Round("all", ByLayer()), [0])
