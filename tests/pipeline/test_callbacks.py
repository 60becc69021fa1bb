"""Who is told what happens: refused before the run, told in order, and never the end of it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import pipeline.engine.metrics
from pipeline import events
from pipeline.callbacks import Apart, Guarded, Listener, listeners, tracking
from pipeline.callbacks.mlflow import Mlflow
from pipeline.callbacks.opentelemetry import Opentelemetry
from pipeline.callbacks.tensorboard import Tensorboard
from pipeline.callbacks.tracking import Tracker
from pipeline.config import load
from pipeline.engine.metrics import RayMetrics, observers
from pipeline.entries import build_callbacks
from pipeline.errors import ConfigError, PlanError
from pipeline.task import ShardError
from tests.pipeline.tiny_run import config_of, write_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.callbacks.tracking import Ending, Start

ERROR = ShardError("ZeroDivisionError", "poison", "Traceback ...", 1)
PASS = events.PassStarted("explain", 5, 1, 40, 8)
COMMITTED = events.ShardCommitted("explain", 1, 1, 8, 2, 3.0, "worker-0", 1 << 30)
STORY: tuple[events.Event, ...] = (
    PASS,
    COMMITTED,
    events.WorkerLogged("explain", 2, 1, "worker-1", "WARNING", "torch", "slow", 0.0),
    events.WorkerLost("explain", "worker-1", 2, "killed"),
    events.ShardFailed("explain", 2, 1, "worker-1", ERROR),
    replace(COMMITTED, shard=2, attempt=2, seconds=5.0),
    events.ShardSkipped("explain", 3, 8, 1, "worker-0"),
    events.ShardQuarantined("explain", 4, 3, "worker-0", ERROR),
    events.PassFinished("explain", 4, 1, 9.0),
)


@dataclass
class Heard:
    """Remembers what it is told, and raises at one event if asked to."""

    fails_at: int = -1
    told: list[events.Event] = field(default_factory=list)
    n_closed: int = 0

    def __call__(self, event: events.Event) -> None:
        self.told.append(event)
        if len(self.told) == self.fails_at:
            raise ConnectionError("the server is gone")

    def close(self) -> None:
        self.n_closed += 1
        if self.fails_at == 0:
            raise ConnectionError("the server is gone")


def test_entries_are_built_with_their_parameters(tmp_path: Path) -> None:
    asked = {"board": {"method": "tensorboard", "samples": 2}, "mlflow": {"every": 0.5}}
    assert build_callbacks(config_of(tmp_path, callbacks=asked)) == {
        "board": Tensorboard(samples=2),
        "mlflow": Mlflow(every=0.5),
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mlflw": {}}, "did you mean 'mlflow'?"),
        ({"mlflow": {"experimnt": "x"}}, "did you mean 'experiment'?"),
        ({"tensorboard": {"samples": -1}}, "expected 0 or more"),
        ({"wandb": {"mode": "sometimes"}}, "online"),
    ],
)
def test_what_is_unknown_is_refused_with_its_place(
    tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    config = load(write_run(tmp_path, callbacks=asked))
    with pytest.raises(ConfigError) as refused:
        build_callbacks(config)
    assert said in str(refused.value)
    assert f"run.yaml:{line_of(tmp_path / 'run.yaml', next(iter(asked)))}" in str(refused.value)


def line_of(path: Path, word: str) -> str:
    """Return the line of an entry, but for its last figure: a parameter is on one of the next."""
    lines = path.read_text().splitlines()
    return str(next(n for n, line in enumerate(lines, 1) if word in line))[:-1]


@dataclass(frozen=True)
class Unmet(Listener):
    name: ClassVar[str] = "unmet"
    extra: ClassVar[str] = "unmet"
    library: ClassVar[str] = "no_such_package.of.anybody"

    def open(self, config: Any, path: str) -> Heard:
        return Heard()


def test_a_missing_library_is_refused_with_the_extra() -> None:
    with pytest.raises(PlanError, match=r"pip install 'xpipe-xai\[unmet\]'"):
        Unmet().check("run.yaml:9 callbacks.unmet")


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard", "opentelemetry"])
def test_every_listener_names_a_library_and_the_extra_that_brings_it(name: str) -> None:
    kind = listeners.get(name)
    assert kind.extra == name == kind.name
    assert kind.library.partition(".")[0] == name
    kind().check("here")


def test_one_that_raises_is_told_nothing_else_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard = Heard(fails_at=2)
    guarded = Guarded("tracker", heard)
    for event in STORY:
        guarded(event)
    guarded.close()
    assert heard.told == list(STORY[:2])
    assert heard.n_closed == 1
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "callback tracker is told nothing else in this run: ConnectionError: the server is gone"
    ]


def test_one_that_cannot_finish_does_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    Guarded("tracker", Heard(fails_at=0)).close()
    assert "could not finish" in caplog.text


def test_one_in_a_thread_of_its_own_is_told_everything_in_order() -> None:
    heard = Heard()
    apart = Apart("tracker", heard)
    for event in STORY:
        apart(event)
    apart.close()
    assert heard.told == list(STORY)
    assert heard.n_closed == 1


class Hangs(Heard):
    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def __call__(self, event: events.Event) -> None:
        self.gate.wait()
        super().__call__(event)


def test_one_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    hanging = Hangs()
    apart = Apart("tracker", hanging, patience=0.05)
    apart(PASS)
    apart.close()
    assert "left behind" in caplog.text
    assert not hanging.told
    hanging.gate.set()


def test_one_that_never_answered_is_not_waited_for_as_long_as_a_last_upload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hanging = Hangs()
    apart = Apart("tracker", hanging, patience=600.0, stuck=0.05)
    for event in STORY:
        apart(event)
    apart.close()
    assert "left behind" in caplog.text
    hanging.gate.set()
    caplog.clear()
    uploading = Hangs()
    apart = Apart("tracker", uploading, patience=600.0, stuck=0.05)
    apart(PASS)
    timer = threading.Timer(0.3, uploading.gate.set)
    timer.start()
    apart.close()
    assert uploading.n_closed == 1
    assert not caplog.text


@dataclass
class Kept:
    """A tracker's backend that remembers."""

    rows: list[tuple[str, dict[str, float], int]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def figures(self, pass_name: str, values: Mapping[str, float], step: int) -> None:
        self.rows.append((pass_name, dict(values), step))

    def finish(self, ending: Ending) -> None:
        self.endings.append(ending)


@dataclass(frozen=True)
class Keeping(Tracker):
    kept: Kept = field(default_factory=Kept)
    starts: list[Start] = field(default_factory=list)

    def begin(self, start: Start) -> Kept:
        self.starts.append(start)
        return self.kept


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that says it has a plan, without one being made."""

    @dataclass
    class Planned:
        digest: str = "abc"

    monkeypatch.setattr(tracking.Plan, "read", lambda url: Planned())
    return tmp_path


def test_figures_count_what_happened_in_the_pass(planned: Path) -> None:
    tracker = Keeping(every=0.0)
    told = tracker.open(config_of(planned), str(planned))
    for event in STORY:
        told(event)
    told(events.RunFinished(5, 40, 3, (("explain", 4),), 10.0))
    told.close()
    assert [step for _, _, step in tracker.kept.rows] == [16, 24, 32]
    name, last, _ = tracker.kept.rows[-1]
    assert name == "explain"
    assert last.pop("samples_per_second") > 0
    assert last == {
        "samples": 32,
        "samples_failed": 5,
        "attempts_failed": 1,
        "shards_given_up": 1,
        "workers_lost": 1,
    }
    (ending,) = tracker.kept.endings
    assert (ending.exit_code, ending.totals["seconds"], ending.scores) == (5, 10.0, {})


def test_progress_is_not_told_more_often_than_asked(planned: Path) -> None:
    tracker = Keeping(every=3600.0)
    told = tracker.open(config_of(planned), str(planned))
    for event in STORY:
        told(event)
    assert [step for _, _, step in tracker.kept.rows] == [32]


def test_parameters_are_the_run_file_flattened(planned: Path) -> None:
    tracker = Keeping()
    asked = {"mlflow": {"tracking_uri": "http://user:password@host"}}
    told = tracker.open(config_of(planned, callbacks=asked), str(planned))
    told(PASS)
    values = tracker.starts[0].parameters
    assert values["explainers.ig.n_steps"] == 4
    assert values["explainers.saliency.method"] == "saliency"
    assert values["engine.kind"] == "serial"
    assert "password" not in str(values)
    assert tracker.starts[0].tags["xpipe.digest"] == "abc"


def test_nested_values_are_flattened() -> None:
    values = {"a": {"b": {"c": 1}, "d": [1, 2], "e": []}, "f": None, "g": False}
    assert dict(tracking.flattened(values)) == {"a.b.c": 1, "a.d": "[1, 2]", "g": False}


def test_spans_are_a_tree_of_run_pass_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    monkeypatch.setenv("TRACEPARENT", f"00-{trace}-{parent}-01")
    exporter = InMemorySpanExporter()
    spans = Opentelemetry().spans(config_of(tmp_path), "out", SimpleSpanProcessor(exporter))
    for event in STORY:
        spans(event)
    spans(events.RunFinished(1, 40, 3, (), 10.0, message="StoreError: full"))
    spans.close()
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert set(found) == {"shard 1", "shard 2", "pass explain", "run tiny"}
    run, one = found["run tiny"], found["shard 1"]
    assert f"{run.context.trace_id:032x}" == trace
    assert f"{run.parent.span_id:016x}" == parent
    assert found["pass explain"].parent.span_id == run.context.span_id
    assert one.parent.span_id == found["pass explain"].context.span_id
    assert one.end_time - one.start_time == 3_000_000_000
    assert one.attributes["xpipe.worker"] == "worker-0"
    assert found["pass explain"].attributes["xpipe.n_quarantined"] == 1
    noted = [each.name for each in found["pass explain"].events]
    assert noted == ["worker_logged", "worker_lost", "shard_failed", "shard_quarantined"]
    assert (run.status.status_code.name, run.status.description) == ("ERROR", "StoreError: full")


class Figure:
    """Stands for a counter, a gauge or a histogram of Ray's."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert tags == {"run": "tiny", "pass": "explain"}
        assert value > 0  # as Ray does
        self.values.append(value)

    observe = set = lambda self, value, tags: self.values.append(value)


def test_figures_for_ray_count_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    names = pipeline.engine.metrics
    figures = {name: Figure() for name in (*names.COUNTERS, *names.GAUGES, *names.HISTOGRAMS)}
    monkeypatch.setattr(names, "_figures", lambda: figures)
    told = RayMetrics("tiny")
    for event in STORY:
        told(event)
    told.close()
    sums = {name: sum(figures[name].values) for name in names.COUNTERS}
    assert sums == {
        "xpipe_shards_committed": 2,
        "xpipe_shards_failed": 1,
        "xpipe_shards_given_up": 1,
        "xpipe_workers_lost": 1,
        "xpipe_samples": 16,
        "xpipe_samples_failed": 4,
    }
    assert figures["xpipe_shards_waiting"].values == [3, 2, 1, 0, 0]
    assert figures["xpipe_shard_seconds"].values == [3.0, 5.0]
    assert figures["xpipe_worker_peak_bytes"].values == [2.0**30] * 2


def test_ray_is_not_asked_where_another_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError

    assert observers("serial", "tiny") == ()
    monkeypatch.setattr(pipeline.engine.metrics, "_figures", refuse)
    (told,) = observers("ray", "tiny")
    # a pass with nothing to do starts no Ray
    told(PASS)
    told(events.PassFinished("explain", 5, 0, 0.0))
