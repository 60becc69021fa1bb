"""Progress is told by events alone."""

import pytest

from cli import progress
from pipeline import events
from pipeline.task import ShardError


def shown(capsys: pytest.CaptureFixture[str], *told: events.Event) -> list[str]:
    with progress.Reporter(progress.Plain()) as reporter:
        for event in told:
            reporter(event)
    captured = capsys.readouterr()
    assert captured.out == "", "progress belongs to stderr"
    return captured.err.splitlines()


def committed(n_samples: int) -> events.ShardCommitted:
    return events.ShardCommitted("explain", 0, 1, n_samples, 0, 0.1, "w0")


def test_a_pass_is_told_at_its_start_and_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(
        capsys,
        events.PassStarted("explain", 3, 1, 30, 10),
        committed(10),
        committed(10),
        events.PassFinished("explain", 3, 0, 1.0),
    )
    assert lines[0] == "explain: 30 samples, 10 of them done earlier"
    assert lines[-1].startswith("explain: 30/30 in ")
    assert len(lines) == 2


def test_a_slow_pass_tells_rate_and_remaining_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = shown(capsys, events.PassStarted("explain", 4, 1, 40, 10), committed(10), committed(10))
    assert lines[1] == "explain: 20/40, 1.0 samples/s, 20.0 s left"
    assert len(lines) == 2, "a line at most every five seconds"


def test_failures_name_shard_and_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = ShardError("ValueError", "odd input\nsecond line", "Traceback ...", 7)
    lines = shown(
        capsys,
        events.ShardFailed("explain", 7, 1, "w0", error),
        events.ShardQuarantined("explain", 7, 3, "w0", error),
    )
    assert lines[0] == (
        "explain: shard 7, attempt 1 failed and is tried again: ValueError: odd input"
    )
    assert "given up" in lines[1]


def test_an_event_without_words_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    class Novel(events.Event):
        """Something a later version tells."""

    assert shown(capsys, Novel()) == []


def test_a_bar_can_be_driven_and_closed() -> None:
    with progress.Reporter(progress.Bar()) as reporter:
        reporter(events.PassStarted("explain", 2, 0, 20, 0))
        reporter(committed(20))
        reporter(events.ScanFinished("statistics"))
        reporter(events.PassFinished("explain", 2, 0, 1.0))
