from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.errors import StoreError
from pipeline.plan import MapSpec, Pass, Plan

if TYPE_CHECKING:
    from pathlib import Path


def plan() -> Plan:
    return Plan(
        digest="d",
        n_samples=10,
        shard_size=4,
        batch_size=2,
        threads=1,
        input_shape=(3, 8, 8),
        n_classes=5,
        targets=("label", 3, {"weights": [0.5, 1.0]}),
        has_target_dimension=True,
        passes=(Pass("explain", ("saliency",), ("moments",)), Pass("explain.moments", ("rde",))),
        maps={"saliency": MapSpec(("channel", "height", "width"), (3, 8, 8))},
        costs={"saliency": {"forward": 1.0, "backwards": 10.0}},
        bytes={"maps": 1, "states": 2, "total": 3},
        manifest_digest="m",
        weights_digest="w",
        code_digest="c",
        dtype="float32",
        channels="keep",
        needs={"rde": {"noise": "moments"}},
        seconds=1.5,
        notes=("a", "b"),
    )


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(plan().to_json()) == plan()


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan().write(str(tmp_path / "plan.json"))
    assert Plan.read(str(tmp_path / "plan.json")) == plan()


def test_shards_are_cut_from_the_samples() -> None:
    assert [(shard.start, shard.stop) for shard in plan().shards] == [(0, 4), (4, 8), (8, 10)]


@pytest.mark.parametrize("text", ["{}", "not json", '{"passes": [], "maps": {}}', "[]"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="not a plan"):
        Plan.from_json(text)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read the plan"):
        Plan.read(str(tmp_path / "plan.json"))
