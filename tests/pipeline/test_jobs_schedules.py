"""Schedules whose runs go to a cluster and into an object store, and workers that ask for more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from pipeline.paths import Folder
from tests.pipeline.ray_head import running_head
from tests.pipeline.s3_server import environment, s3, s3_server  # noqa: F401
from tests.pipeline.tiny_run import stored, write_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.pipeline.ray_head import Head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

XPIPE = str(Path(sys.executable).parent / "xpipe")
DEADLINE = 200.0
"""Seconds that a job may need on a machine that others use, too."""
GATES = [
    # whatever changes for sure breaks one of them
    {"metric": "sparseness", "direction": direction, "alpha": 0.5}
    for direction in ("higher", "lower")
]


@pytest.fixture(scope="module")
def head(s3_server: str) -> Iterator[Head]:  # noqa: F811
    """Return a head with something to ask for, whose processes know the store."""
    options = ('--resources={"disk": 2}', "--labels=market=reserved")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(s3_server).items():
            patch.setenv(name, value)
        with running_head(3, *options) as made:
            yield made


@pytest.fixture
def here(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in head.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def xpipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_occurrences_are_sent_compared_and_kept_apart(
    head: Head,
    here: Path,
    s3: str,  # noqa: F811
) -> None:
    data = {"limit": 16}
    write_run(here, explainers={"saliency": {}}, metrics={"sparseness": {}}, data=data, gates=GATES)
    options = ("--cron", "0 2 * * *", "--compare", "--keep", 1, "--address", head.address)
    path = f"output.path={s3}/audit-{{{{ date }}}}"
    added = xpipe("schedule", "add", "nightly", "run.yaml", *options, "-s", path)
    assert added.exit_code == 0, added.output

    first = xpipe("schedule", "run", "nightly", "--at", "2026-11-20T02:00", "--json")
    assert first.exit_code == 0, first.output
    audit = json.loads(first.stdout)
    assert (audit["path"], audit["run"]["n_samples"]) == (f"{s3}/audit-2026-11-20", 16)
    assert "the first run of the schedule" in audit["notes"][0]

    # a third is started while the second is at work
    (here / "slow").write_text("0.3")
    second = subprocess.Popen(
        [XPIPE, "schedule", "run", "nightly", "--at", "2026-11-21T02:00", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    until = time.monotonic() + DEADLINE
    while not Folder(f"{s3}/audit-2026-11-21").exists("plan.json"):
        assert second.poll() is None, second.communicate()
        assert time.monotonic() < until, "it never began"
        time.sleep(0.2)
    third = xpipe("schedule", "run", "nightly", "--at", "2026-11-22T02:00")
    assert third.exit_code == 3, third.output
    assert "is still running" in third.stderr
    told, said = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0, said
    audit = json.loads(told)
    assert audit["compared_with"] == f"{s3}/audit-2026-11-20"
    assert len(audit["verdicts"]) == 2

    (row,) = json.loads(xpipe("schedule", "list", "--json").stdout)
    assert (row["exit code"], row["run"]) == (0, f"{s3}/audit-2026-11-21")
    assert datetime.fromisoformat(row["last"]) == datetime(2026, 11, 21, 2, tzinfo=UTC)
    assert xpipe("schedule", "remove", "nightly").exit_code == 0
    assert json.loads(xpipe("schedule", "list", "--json").stdout) == []
    assert Folder(f"{s3}/audit-2026-11-21").exists("plan.json")


def test_a_driver_joins_by_auto_and_its_workers_ask_for_what_a_node_has(
    head: Head, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head.gcs)
    asked = ("-s", "engine.kind=ray", "-s", "engine.labels={market: reserved}")
    run_file = write_run(here / "cfg", here / "out")
    options = ("--address", "auto", *asked, "-s", "engine.resources={disk: 1}")
    done = xpipe("run", run_file, *options)
    assert done.exit_code == 0, done.output
    assert xpipe("run", write_run(here / "cfg", here / "local")).exit_code == 0
    assert stored(here / "out") == stored(here / "local")


def test_a_job_whose_workers_fit_nowhere_says_what_they_ask_for(head: Head, here: Path) -> None:
    run_file = write_run(here / "cfg", here / "out", name="greedy")
    asked = ("-s", "engine.kind=ray", "-s", "engine.resources={disk: 9}")
    refused = xpipe("run", run_file, "--address", head.address, *asked)
    assert refused.exit_code == 1, refused.output
    assert "a worker fits on no node" in refused.stderr
    assert "disk 9" in refused.stderr
    assert "disk 2" in refused.stderr
