"""Runs that are sent to a real head with a token: streamed, watched, stopped, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from pipeline.config import load
from pipeline.errors import EngineError, RunConflictError
from pipeline.jobs.client import connect
from tests.pipeline.ray_head import running_head
from tests.pipeline.tiny_run import stored, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.pipeline.drills import Seen
    from tests.pipeline.ray_head import Head

pytestmark = [pytest.mark.ray, pytest.mark.slow]

XPIPE = str(Path(sys.executable).parent / "xpipe")
DEADLINE = 200.0
"""Seconds that a job may need on a machine that others use, too."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as made:
        yield made


@pytest.fixture
def here(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in head.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def xpipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def wait_for(check: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE
    while not check():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)


def test_a_run_is_sent_followed_and_looked_at(head: Head, here: Path) -> None:
    data = {"params": {"bad": {"3": "nan"}}}
    run_file = write_run(here / "cfg", here / "out", name="seen", data=data)
    sent = xpipe("run", run_file, "--address", head.address, "--json")
    assert sent.exit_code == 5, sent.output
    summary = json.loads(sent.stdout)
    assert (summary["n_samples"], summary["n_failed"]) == (40, 1)
    assert "explain: 40/40" in sent.stderr
    assert (here / "out" / "report.html").exists()
    state = json.loads(xpipe("status", "runs/seen", "--json").stdout)
    assert state["state"] == "done with failures"
    assert state["job"] == "xpipe-seen"
    assert [(row["done"], row["shards"]) for row in state["passes"]] == [(5, 5), (5, 5)]
    assert xpipe("status", "seen", "--address", head.address).stdout.count("5/5") == 2
    told = [json.loads(line) for line in xpipe("logs", "runs/seen", "--json").stdout.splitlines()]
    assert [each["exit_code"] for each in told if each["event"] == "run_finished"] == [5]
    assert f"job at {head.address}" in xpipe("list").stdout
    ended = xpipe("stop", "runs/seen")
    assert ended.exit_code == 1
    assert "has ended already" in ended.stderr
    assert head.environment["RAY_AUTH_TOKEN_PATH"] not in (here / "runs/seen/job.json").read_text()


@pytest.mark.drill(20)
def test_another_token_is_refused_in_one_line(
    head: Head, here: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "somebody-elses")
    run_file = write_run(here / "cfg", here / "out", name="refused")
    result = xpipe("run", run_file, "--address", head.address)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: the cluster at {head.address} does not take the token"]
    assert not (here / "runs").exists()
    assert not (here / "out").exists()
    drill(f"exit {result.exit_code}", *errors)


def test_two_that_send_one_run_at_once_do_not_both_win(head: Head, here: Path) -> None:
    cluster = connect(head.address)
    cluster.submit("xpipe-twice", entrypoint="sleep 0")
    with pytest.raises(RunConflictError, match="has got a job 'xpipe-twice'"):
        cluster.submit("xpipe-twice", entrypoint="sleep 0")


@pytest.mark.long
def test_a_plan_that_is_refused_there_is_refused_here(head: Head, here: Path) -> None:
    model = {"name": "torch.nn:Identity"}
    run_file = write_run(here / "cfg", here / "out", name="misfit", model=model)
    result = xpipe("run", run_file, "--address", head.address)
    assert result.exit_code == 3, result.output
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


def in_background(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [XPIPE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.drill(16)
@pytest.mark.long
def test_a_run_is_stopped_from_here_and_goes_on_with_the_same_bytes(
    head: Head, here: Path, drill: Seen
) -> None:
    """On the cluster's workers: what is in flight is finished, and nothing is done twice."""
    engine = {"kind": "ray", "address": head.address, "workers": 1}
    run_file = write_run(here / "cfg", here / "out", name="cut", engine=engine)
    (here / "cfg" / "slow").write_text("0.4")
    client = in_background("run", run_file, "--ship", "slow")
    wait_for(lambda: bool(list((here / "out").glob("ledger/explain/*.json"))))
    assert xpipe("run", run_file).exit_code == 3, "the job is live"
    client.send_signal(signal.SIGINT)
    _, told = client.communicate(timeout=DEADLINE)
    assert client.returncode == 130, told
    assert "xpipe resume runs/cut goes on" in told
    records = {path.name: path.read_bytes() for path in (here / "out/ledger/explain").iterdir()}
    assert 0 < len(records) < 5
    assert json.loads(xpipe("status", "runs/cut", "--json").stdout)["state"] == "interrupted"
    resumed = xpipe("resume", "runs/cut")
    assert resumed.exit_code == 0, resumed.output
    kept = {name: (here / "out/ledger/explain" / name).read_bytes() for name in records}
    assert kept == records
    local = write_run(here / "cfg", here / "local", name="cut_here")
    (here / "cfg" / "slow").unlink()
    assert xpipe("run", local).exit_code == 0
    assert stored(here / "out") == stored(here / "local")
    drill(f"on a cluster: exit {client.returncode}, {len(records)} of 5 shards kept, then 0")


@pytest.mark.long
def test_a_job_that_is_left_alone_is_stopped_later(head: Head, here: Path) -> None:
    run_file = write_run(here / "cfg", here / "out", name="alone")
    (here / "cfg" / "slow").write_text("0.4")
    sent = xpipe("run", run_file, "--address", head.address, "--ship", "slow", "--detach")
    assert sent.exit_code == 0, sent.output
    wait_for(lambda: bool(list((here / "out").glob("ledger/explain/*.json"))))
    assert "asked to stop" in xpipe("stop", "alone", "--address", head.address).stdout
    watched = xpipe("status", "runs/alone", "--watch")
    assert "interrupted" in watched.stdout.splitlines()[0]
    followed = xpipe("logs", "runs/alone", "--follow", "--json").stdout.splitlines()
    ends: list[dict[str, Any]] = [json.loads(line) for line in followed]
    assert [each["exit_code"] for each in ends if each["event"] == "run_finished"] == [130]


@pytest.mark.drill(20)
@pytest.mark.long
@pytest.mark.parametrize("secret", ["somebody-elses", ""])
def test_a_cluster_is_not_joined_without_its_token(
    head: Head, here: Path, secret: str, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    from pipeline.run import run

    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("RAY_AUTH_TOKEN", secret)
    if not secret:
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    engine = {"kind": "ray", "address": head.gcs}
    config = load(write_run(here / "cfg", here / "out", name="joined", engine=engine))
    with pytest.raises(EngineError, match="token") as caught:
        run(config)
    assert caught.value.page == "cluster-token"
    assert not (here / ".ray").exists(), "no token is made up"
    drill(caught.value.what)


@pytest.mark.drill(20)
@pytest.mark.long
def test_a_cluster_that_asks_for_no_token_is_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    from pipeline.run import run

    with running_head(mode="disabled") as open_head:
        for name, value in open_head.environment.items():
            monkeypatch.setenv(name, value)
        engine = {"kind": "ray", "address": open_head.gcs}
        config = load(write_run(tmp_path / "cfg", tmp_path / "out", engine=engine))
        with pytest.raises(EngineError, match="asks for no token") as caught:
            run(config)
    assert caught.value.page == "cluster-without-authentication"
    drill(caught.value.what)
