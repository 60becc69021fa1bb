"""Runs seen from outside: templates, finding, state, stopping."""

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from cli import jobs
from cli.main import app
from pipeline import paths, runs, templates
from pipeline.callbacks.event_log import EventLog
from pipeline.doctor import check
from pipeline.errors import ConfigError, StoreError
from pipeline.events import StageFinished
from tests.pipeline import stored


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / paths.PLAN).write_text("{}")
    return folder


def own(folder: Path, pid: int, *, host: str = "", is_released: bool = False) -> None:
    started = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 0.0
    owner = {
        "pid": pid,
        "process_started": started,
        "host": host or socket.gethostname(),
        "epoch": 1,
        "is_released": is_released,
    }
    (folder / "owner.json").write_text(json.dumps(owner))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """A process that counts the signals it gets."""
    code = (
        "import os, signal, time\n"
        # not print: a handler may come in the middle of the one below
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'signal\\n'))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_template_is_copied_with_its_files(tmp_path: Path) -> None:
    written = templates.copy("quickstart", tmp_path / "digits")
    assert written[0] == tmp_path / "digits" / "run.yaml"
    assert {path.name for path in written} >= {"run.yaml", "lenet.py", "lenet.safetensors"}
    assert all(path.stat().st_size > 0 for path in written)


def test_the_audit_has_a_short_name(tmp_path: Path) -> None:
    (short,) = templates.copy("audit", tmp_path / "short")
    (full,) = templates.copy("full_audit", tmp_path / "full")
    assert short.read_bytes() == full.read_bytes()


def test_a_template_never_writes_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "lenet.py").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        templates.copy("quickstart", tmp_path)
    assert (tmp_path / "lenet.py").read_text() == "mine"
    assert not (tmp_path / "run.yaml").exists()


def test_the_help_lists_all_templates() -> None:
    said = CliRunner().invoke(app, ["init", "--help"]).output
    assert all(name in said for name in templates.names())


def test_an_unknown_template_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        templates.copy("quickstrat", tmp_path)


def test_runs_are_found_below_a_folder_but_not_inside_runs(tmp_path: Path) -> None:
    expected = [a_run(tmp_path / "a"), a_run(tmp_path / "nested" / "b")]
    a_run(tmp_path / "a" / "inner")
    assert runs.find(tmp_path) == expected
    assert runs.find(tmp_path / "a") == expected[:1]
    assert runs.find(tmp_path / "nothing") == []


def test_stop_asks_once_and_twice_if_it_has_to_be_now(
    tmp_path: Path, sleeper: subprocess.Popen[str]
) -> None:
    own(a_run(tmp_path / "run"), sleeper.pid)
    assert runs.stop(tmp_path / "run").pid == sleeper.pid
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "signal\n"
    runs.stop(tmp_path / "run", now=True)
    assert [sleeper.stdout.readline() for _ in range(2)] == ["signal\n", "signal\n"]


def test_stop_never_signals_a_process_that_is_not_the_owner(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    own(folder, os.getpid())
    reused = json.loads((folder / "owner.json").read_text()) | {"process_started": 1.0}
    (folder / "owner.json").write_text(json.dumps(reused))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(StoreError, match="nobody works on"):
            runs.stop(folder)
    finally:
        signal.signal(signal.SIGINT, before)


def test_stop_refuses_what_does_not_run_and_leaves_word_elsewhere(
    tmp_path: Path,
) -> None:
    folder = a_run(tmp_path / "run")
    with pytest.raises(StoreError, match="nobody works on"):
        runs.stop(folder)
    own(folder, os.getpid(), is_released=True)
    with pytest.raises(StoreError, match="nobody works on"):
        runs.stop(folder)
    own(folder, os.getpid(), host="elsewhere")
    assert runs.stop(folder, now=True).host == "elsewhere"
    assert json.loads((folder / paths.STOP / "1.json").read_text()) == {"now": True}


STATE: dict[str, Any] = {
    "path": "runs/a",
    "state": "running",
    "is_live": True,
    "owner": {"pid": 17, "host": "here"},
    "n_samples": 40,
    "n_failed": 0,
    "passes": [
        {"pass": "explain", "shards": 5, "done": 2, "samples": 16, "failed": 0, "seconds": 1.0}
    ],
    "failures": [],
    "not_finite": {},
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_run_is_watched_in_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    jobs._watch_in_place(iter([STATE]))
    shown = screen.getvalue()
    assert "\x1b[1m" in shown  # the head of the table is bold, and its codes are no text
    lines = re.sub("\x1b\\[[?0-9;]*[A-Za-z]", "", shown).splitlines()
    heads = {tuple(line.split()) for line in lines if "worker time" in line}
    assert heads == {("pass", "shards", "samples", "failed", "worker", "time")}
    assert max(map(len, lines)) <= 80


def test_who_works_is_told_while_somebody_does() -> None:
    assert "process 17 on here" in list(jobs._lines(STATE))
    ended = STATE | {"state": "done", "is_live": False}
    assert not [line for line in jobs._lines(ended) if line.startswith("process")]


def test_a_run_of_another_host_is_watched_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [STATE | {"state": "running elsewhere"}] * 2 + [STATE | {"is_live": False}]
    left = iter(states)
    monkeypatch.setattr(runs, "state", lambda path: next(left))
    monkeypatch.setattr(jobs, "WATCH_INTERVAL", 0.0)
    assert list(jobs._looks(str(tmp_path), None)) == states


def test_an_owner_that_cannot_be_seen_may_work(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    for host, is_released, expected in (
        ("elsewhere", False, True),
        ("elsewhere", True, False),
        ("", False, True),
    ):
        own(folder, os.getpid(), host=host, is_released=is_released)
        present = runs.owner(folder)
        assert present is not None
        assert present.may_work is expected


def test_events_of_an_ended_run_are_read_to_the_end(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    (folder / paths.EVENTS).write_text('{"event": "run_started"}\n{"event": "run_fin')
    assert [event["event"] for event in runs.events(folder, follow=True)] == ["run_started"]


def test_an_event_after_a_torn_line_has_a_line_of_its_own(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    (folder / paths.EVENTS).write_text('{"event": "run_started"}\n{"event": "run_fin')
    log = EventLog(folder / paths.EVENTS)
    log(StageFinished("report", ""))
    log(StageFinished("aggregates", ""))
    found = list(runs.events(folder))
    assert [event["event"] for event in found] == [
        "run_started",
        "stage_finished",
        "stage_finished",
    ]
    assert "\n\n" not in (folder / paths.EVENTS).read_text()


def test_events_that_a_full_disk_does_not_take_wait_and_none_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = a_run(tmp_path / "run") / paths.EVENTS
    log = EventLog(file)
    log(StageFinished("report", "1"))
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        log(StageFinished("report", "2"))
        log(StageFinished("report", "3"))
    assert file.read_bytes() == before
    assert "No space left on device" in caplog.text
    log(StageFinished("report", "4"))
    assert [event["detail"] for event in runs.events(file.parent)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("torn", [b'{"event": "run_fin{"event": "x"}', b"\xff\x00", b"17", b""])
def test_what_is_no_event_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    folder = a_run(tmp_path / "run")
    lines = [b'{"event": "run_started"}', torn, b'{"event": "run_finished"}', b""]
    (folder / paths.EVENTS).write_bytes(b"\n".join(lines))
    assert [event["event"] for event in runs.events(folder)] == ["run_started", "run_finished"]


def test_a_broken_run_does_not_hide_the_others(tmp_path: Path) -> None:
    stored.make_run(str(tmp_path / "sound"))
    (a_run(tmp_path / "broken") / paths.PLAN).write_text("[]")
    stored.make_run(str(tmp_path / "torn"))
    (tmp_path / "torn" / "owner.json").write_text('{"pid": ')
    (tmp_path / "torn" / "samples" / "explain" / "1.parquet").write_bytes(b"none")
    result = CliRunner().invoke(app, ["list", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    states = {Path(row["run"]).name: row["state"] for row in json.loads(result.stdout)}
    assert states == {"broken": "unreadable", "sound": "not started", "torn": "unreadable"}
    assert "broken" in result.stderr
    assert "plan.json was edited" in result.stderr
    assert "unreadable" in CliRunner().invoke(app, ["list", str(tmp_path)]).stdout


def test_events_of_a_live_run_are_followed(tmp_path: Path, sleeper: subprocess.Popen[str]) -> None:
    folder = a_run(tmp_path / "run")
    own(folder, sleeper.pid)
    (folder / paths.EVENTS).write_text('{"event": "run_started"}\n')
    followed = runs.events(folder, follow=True)
    assert next(followed)["event"] == "run_started"
    with (folder / paths.EVENTS).open("a") as file:
        file.write('{"event": "pass_started"}\n')
    assert next(followed)["event"] == "pass_started"
    own(folder, sleeper.pid, is_released=True)
    assert list(followed) == []


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        list(runs.events(tmp_path))


def test_the_doctor_finds_this_environment_fit(tmp_path: Path) -> None:
    findings = {finding.name: finding for finding in check(folder=tmp_path)}
    assert findings["torch"].status == "ok"
    assert findings["output folder"].status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_says_what_to_do_about_what_is_wrong(tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text("name: x\nmodle: {}\n")
    findings = check(run_file, folder=tmp_path / "missing")
    broken = {finding.name: finding for finding in findings if finding.status == "failed"}
    assert set(broken) == {"output folder", "run file"}
    assert all(finding.fix for finding in broken.values())
