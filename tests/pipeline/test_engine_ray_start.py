from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

import explainers
from pipeline.engine import Engine, Outcome, Settings, WorkItem, engines
from tests.pipeline.toy_tasks import Toy

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(explainers.__file__).parents[1]


def ray_engine() -> Engine:
    return engines.get("ray")(Settings(workers=1, paths=(str(ROOT),)))


def run(engine: Engine, task: Toy, n: int) -> list[Outcome]:
    items = [WorkItem("explain", shard) for shard in range(n)]
    return engine.map(task, items, on_outcome=lambda _: None, stop=lambda: False)


def test_folders_of_dead_drivers_are_removed_and_others_are_not(tmp_path: Path) -> None:
    from pipeline.engine.platform import _temporary_folder

    first = _temporary_folder()
    values = json.loads((first / "owner.json").read_text())
    (first / "owner.json").write_text(
        json.dumps({**values, "process_started": 1.0, "since_boot": 1.0})
    )
    second = _temporary_folder()
    third = _temporary_folder()
    assert not first.exists()
    assert second.exists()
    shutil.rmtree(second)
    shutil.rmtree(third)


def test_the_token_is_private_the_home_is_left_alone_and_nothing_remains(tmp_path: Path) -> None:
    before = dict(os.environ)
    with ray_engine() as engine:
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
        assert Path.home() not in token.parents
        assert not (Path.home() / ".ray").exists()
        assert len(run(engine, Toy(str(tmp_path)), 2)) == 2
    assert not token.parent.exists()
    assert {name: os.environ.get(name) for name in before} == before


def test_a_foreign_pipeline_package_in_the_working_folder_does_not_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with ray_engine() as engine:
        outcomes = run(engine, Toy(str(tmp_path), kill=frozenset({1})), 3)
    statuses = {outcome.item.shard: outcome.status for outcome in outcomes}
    assert statuses == {0: "committed", 1: "quarantined", 2: "committed"}
    assert str(ROOT / "pipeline") in (tmp_path / "log").read_text()
    assert capfd.readouterr().out == ""
