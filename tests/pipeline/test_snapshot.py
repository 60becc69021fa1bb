"""What sections of a page share of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline import snapshot
from pipeline.sinks import scores as score_sink
from pipeline.snapshot import Snapshot
from pipeline.store import open_run
from tests.pipeline import stored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Shards of which scores were read."""
    found: list[int] = []
    read = score_sink.read

    def counted(root: str, metric: str, explainer: str, shards: list[int]) -> object:
        found.extend(shards)
        return read(root, metric, explainer, shards)

    monkeypatch.setattr(score_sink, "read", counted)
    return found


def test_scores_are_read_once_and_cannot_be_changed(tmp_path: Path, reads: list[int]) -> None:
    stored.make_run(str(tmp_path), evaluated=(0, 1, 2))
    run = Snapshot(open_run(tmp_path))
    first = run.scores("flipping", "lrp")
    assert run.scores("flipping", "lrp")["auc"] is first["auc"]
    assert reads == [0, 1, 2]
    np.testing.assert_array_equal(first["auc"], open_run(tmp_path).scores("flipping", "lrp")["auc"])
    with pytest.raises(ValueError, match="read-only"):
        first["auc"][0] = 1


def test_what_is_committed_later_is_not_seen(tmp_path: Path) -> None:
    plan = stored.make_run(str(tmp_path), evaluated=(0,))
    run = Snapshot(open_run(tmp_path))
    assert set(run.entries("evaluate.flipping")) == {0}
    stored.evaluate(str(tmp_path), plan.shards[1])
    assert set(run.entries("evaluate.flipping")) == {0}
    assert set(open_run(tmp_path).entries("evaluate.flipping")) == {0, 1}


def test_many_scores_are_read_again(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "KEPT_BYTES", 10)
    stored.make_run(str(tmp_path), evaluated=(0, 1, 2))
    run = Snapshot(open_run(tmp_path))
    run.scores("flipping", "lrp")
    run.scores("flipping", "lrp")
    assert reads == [0, 1, 2, 0, 1, 2]
