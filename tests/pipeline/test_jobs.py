"""What is sent with a job, what its log says, and who is refused, without a cluster."""

from __future__ import annotations

import json
import math
import threading
import traceback
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipeline import events
from pipeline.addresses import checked
from pipeline.config import RunConfig, load
from pipeline.engine import authentication
from pipeline.errors import ConfigError, EngineError, JobError, PlanError, RunConflictError
from pipeline.gates.verdict import Verdict
from pipeline.interrupts import STOPPING
from pipeline.jobs import parcel, submission
from pipeline.jobs.client import Cluster, State, connect
from pipeline.jobs.folding import event_of, exit_code, in_words, progress, summary_of
from pipeline.jobs.following import event_in, follow
from pipeline.run import RunSummary
from pipeline.task import ShardError
from tests.pipeline.tiny_run import config_of, write_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.pipeline.drills import Seen

ERROR = ShardError("ValueError", "odd", "Traceback", 3)
TOLD: tuple[events.Event, ...] = (
    events.RunStarted("s3://b/run", "abc", 1, 40, 5, ("explain",)),
    events.PassStarted("explain", 5, 1, 40, 8),
    events.ShardCommitted("explain", 1, 1, 8, 2, 0.5, "w0"),
    events.ShardSkipped("explain", 2, 8, 1, "w1"),
    events.ShardFailed("explain", 3, 1, "w0", ERROR),
    events.ShardQuarantined("explain", 3, 3, "w0", ERROR),
    events.NotFinite("explain", "lrp", 4),
    events.RunFinished(5, 40, 3, (("explain", 3),), 1.5),
)


def records(*told: events.Event) -> list[dict[str, Any]]:
    """What arrives of events: JSON and back."""
    found: list[dict[str, Any]] = json.loads(json.dumps([events.record(each) for each in told]))
    return found


class Jobs:
    """Ray's client, as far as ours needs it."""

    def __init__(self, chunks: list[list[str]] | None = None) -> None:
        self.chunks = chunks or []
        self.sent: dict[str, dict[str, Any]] = {}
        self.states: dict[str, State] = {}
        self.stopped: list[str] = []
        self.logs: dict[str, str] = {}

    def submit_job(self, submission_id: str, **job: Any) -> None:
        if submission_id in self.sent:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists")
        self.sent[submission_id] = job

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        for chunk in self.chunks.pop(0):
            if chunk == "LOST":
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield chunk

    def get_job_logs(self, submission_id: str) -> str:
        return self.logs.get(submission_id, "")

    def stop_job(self, submission_id: str) -> bool:
        self.stopped.append(submission_id)
        return self.states[submission_id].is_live


class FakeCluster(Cluster):
    """A cluster whose jobs are in the state that a test gives them."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__("http://head:8265", jobs)
        self.jobs = jobs

    def state(self, submission: str) -> State | None:
        return self.jobs.states.get(submission)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster(Jobs())
    monkeypatch.setattr(submission, "connect", lambda _: made)
    return made


def remote(folder: Path, **changes: Any) -> RunConfig:
    changes = {"engine": {"kind": "ray", "address": "http://head:8265"}, **changes}
    return config_of(folder, Path("/results/tiny"), **changes)


def test_a_parcel_is_a_run_file_that_stands_for_itself(tmp_path: Path) -> None:
    path = write_run(tmp_path / "here", Path("/results/tiny"), seed=1)
    config = load(path, ["seed=7"])
    (tmp_path / "here" / "beside.py").write_text("")
    (tmp_path / "here" / "notes.txt").write_text("not named, not sent")
    target = tmp_path / "packed"
    target.mkdir()
    parcel.pack(config, "auto", target)
    packed = load(target / "run.yaml")
    assert packed.engine.address == "auto"
    assert packed.digest() == config.digest()
    assert packed.seed == 7
    assert packed.base == (target / "files").resolve()
    assert sorted(each.name for each in packed.base.iterdir()) == ["beside.py", "tiny.py"]


def test_files_above_the_run_file_keep_their_place_beside_it(tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs" / "here", Path("/results/tiny"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "weights.pt").write_bytes(b"w")
    (tmp_path / "shared" / "labels.csv").write_bytes(b"l")
    config = load(path, ["model.weights=../../shared/weights.pt"])
    target = tmp_path / "packed"
    target.mkdir()
    parcel.pack(config, "auto", target, also=["../../shared/labels.csv"])
    base = yaml.safe_load((target / "run.yaml").read_text())["base"]
    assert (target / base / "../../shared/weights.pt").read_bytes() == b"w"
    assert (target / base / "../../shared/labels.csv").read_bytes() == b"l"
    with pytest.raises(PlanError, match=r"no 'gone\.csv'"):
        parcel.pack(config, "auto", target, also=["gone.csv"])


def test_what_is_absolute_or_a_url_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "big.pt").write_bytes(b"w")
    config = remote(tmp_path / "here")
    model = config.model.model_copy(update={"weights": str(tmp_path / "big.pt")})
    (tmp_path / "packed").mkdir()
    made = parcel.pack(config.model_copy(update={"model": model}), "auto", tmp_path / "packed")
    assert [path.name for path in made.files] == ["tiny.py"]


def test_a_folder_of_images_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcel, "MAX_FILES", 20)
    images = tmp_path / "here" / "images"
    images.mkdir(parents=True)
    for index in range(30):
        (images / f"{index}.png").write_bytes(b"x")
    config = remote(tmp_path / "here", data={"source": "image_folder", "path": "images"})
    with pytest.raises(PlanError, match=r"images \(30 files") as caught:
        parcel.pack(config, "auto", tmp_path / "packed")
    assert caught.value.page == "job-too-large"
    assert not (tmp_path / "packed").exists()


def test_environments_runs_and_hidden_files_do_not_travel(tmp_path: Path) -> None:
    config = remote(tmp_path / "here")
    for name, mark in (("env", "pyvenv.cfg"), ("old", "plan.json"), (".git", "x")):
        (tmp_path / "here" / name).mkdir()
        (tmp_path / "here" / name / mark).write_text("")
        (tmp_path / "here" / name / "code.py").write_text("")
    (tmp_path / "packed").mkdir()
    made = parcel.pack(config, "auto", tmp_path / "packed")
    assert [path.name for path in made.files] == ["tiny.py"]


def test_events_arrive_as_they_were_told() -> None:
    assert tuple(event_of(each) for each in records(*TOLD)) == TOLD
    assert event_of({"event": "invented_later", "n": 1}) is None
    assert event_of({"event": "pass_started", "pass_name": "explain"}) is None
    newer = {**records(TOLD[1])[0], "invented_later": 1}
    assert event_of(newer) == TOLD[1]


def test_a_summary_arrives_with_its_gates() -> None:
    from cli.output import plain

    gate = Verdict("a >= 1", "absolute", "skipped", "lrp", "a", "b", "all", 0, *[math.nan] * 4, "")
    told = RunSummary(Path("/r"), 4, 40, 1, (("explain", 3),), 2.0, gates=(gate,), notes=("a",))
    found = summary_of(json.loads(json.dumps(plain(asdict(told)))))
    assert found is not None
    assert math.isnan(found.gates[0].value)
    same = replace(found.gates[0], value=0, low=0, high=0, limit=0)
    assert same == replace(gate, value=0, low=0, high=0, limit=0)
    assert (found.exit_code, found.quarantined, found.notes) == (4, (("explain", 3),), ("a",))
    assert str(found.path) == "/r"
    assert summary_of({"event": "summary"}) is None


def test_progress_is_the_sum_of_the_events() -> None:
    found = progress(records(*TOLD))
    assert found["passes"] == [
        {"pass": "explain", "shards": 5, "done": 3, "samples": 24, "failed": 3, "seconds": 0.5}
    ]
    assert (found["n_samples"], found["n_failed"]) == (40, 3)
    assert found["not_finite"] == {"lrp": 4}


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (State("succeeded", 0), 0, "done"),
        (State("failed", 5), 5, "done with failures"),
        (State("failed", 4), 4, "gate broken"),
        (State("failed", 3), 3, "failed"),
        (State("failed", -9), 137, "failed"),
        (State("stopped"), 130, "interrupted"),
        (State("failed", 130), 130, "interrupted"),
    ],
)
def test_the_exit_code_is_that_of_the_run(state: State, code: int, words: str) -> None:
    assert exit_code(state, []) == code
    assert in_words(state, []) == words


def test_a_stopped_run_says_how_it_ended() -> None:
    told = records(events.RunFinished(143, 40, 0, (), 1.0))
    assert exit_code(State("stopped"), told) == 143


def test_a_job_that_never_started_says_why() -> None:
    state = State("failed", None, "Failed to start:\nTraceback\nValueError: no such package")
    with pytest.raises(JobError, match="no such package"):
        exit_code(state, [])
    assert in_words(state, []) == "failed"
    assert in_words(State("pending"), []) == "submitted"


def test_lines_are_whole_however_they_come_and_a_lost_connection_is_taken_up() -> None:
    jobs = Jobs([["one\ntw", "o\nthr", "LOST"], ["one\ntwo\n", "three\nfo", "ur"]])
    jobs.states["a"] = State("running")
    lines: list[str] = []
    for line in follow(FakeCluster(jobs), "a", pause=0.0):
        if line is not None:
            lines.append(line)
        if not jobs.chunks:
            jobs.states["a"] = State("succeeded", 0)
    assert lines == ["one", "two", "three", "four"]


def test_a_cluster_that_is_gone_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.jobs.following.MAX_LOSSES", 3)
    jobs = Jobs([["LOST"] for _ in range(9)])
    with pytest.raises(JobError, match="is lost; the job goes on"):
        list(follow(FakeCluster(jobs), "xpipe-a", pause=0.0))


@pytest.mark.parametrize("line", ["", "words", "{not json", '{"a": 1}', "[1]", '{"event": 1}'])
def test_lines_that_are_no_events_are_somebody_elses(line: str) -> None:
    assert event_in(line) is None


def test_a_run_is_sent_with_its_code_and_noted(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = remote(tmp_path / "here")
    _, job = submission.submit(config, take_over=True)
    sent = cluster.jobs.sent["xpipe-tiny"]
    assert sent["entrypoint"].split()[-3:] == ["run.yaml", "--events", "--take-over"]
    assert sent["metadata"]["digest"] == config.digest()
    assert int(sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 3
    assert submission.noted("runs/tiny") == replace(job, kept="runs/tiny")
    note = (tmp_path / "runs" / "tiny" / "job.json").read_text()
    assert "token" not in note.lower()
    assert submission.noted_run(job).digest() == config.digest()
    assert submission.noted(tmp_path) is None


def test_a_live_job_is_not_joined_by_another_and_an_ended_one_is_followed_by_the_next(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = remote(tmp_path / "here")
    cluster.jobs.states["xpipe-tiny"] = State("running")
    with pytest.raises(RunConflictError, match="is running") as caught:
        submission.submit(config)
    assert "xpipe stop" in caught.value.fix
    cluster.jobs.logs["xpipe-tiny"] = f"one\n{STOPPING}; once more stops now\n"
    with pytest.raises(RunConflictError, match="is stopping: it finishes") as caught:
        submission.submit(config)
    assert "wait for its end" in caught.value.fix
    assert "xpipe stop" not in caught.value.fix
    cluster.jobs.states["xpipe-tiny"] = State("failed", 5)
    assert submission.submit(config)[1].submission == "xpipe-tiny-2"
    cluster.jobs.states["xpipe-tiny-2"] = State("stopped", None, "", {"run": "/results/tiny"})
    _, found = submission.find("http://head:8265", "runs/tiny")
    assert (found.submission, found.output) == ("xpipe-tiny-2", "/results/tiny")
    with pytest.raises(JobError, match="no job of a run 'other'"):
        submission.find("http://head:8265", "other")


ADDRESSES = ["local", "auto", "head:6379", "[::1]:6379", "http://head:8265", "https://a.b.c/"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_have_these_forms(address: str) -> None:
    assert checked(address) == address


@pytest.mark.parametrize(
    "address",
    ["htp://head:8265", "ray://head:10001", "head", "http:/head", "", "http://a/b", "a b:1"],
)
def test_another_form_of_address_is_refused_with_its_place(address: str, tmp_path: Path) -> None:
    path = write_run(tmp_path, Path("out"))
    with pytest.raises(ConfigError, match=r"engine\.address: got the address .* expected local"):
        load(path, [f"engine.address={json.dumps(address)}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["http://", "https://", ""])
def test_a_password_in_an_address_is_refused_and_never_repeated(
    scheme: str, tmp_path: Path
) -> None:
    address = f"{scheme}me:sesame@head:8265"
    path = write_run(tmp_path, Path("out"))
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH") as caught:
        load(path, [f"engine.address={address}"])
    assert "sesame" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(JobError, match="no user or password") as refused:
        connect(address)
    assert "sesame" not in "".join(traceback.format_exception(refused.value))


def test_results_in_a_folder_of_the_job_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path, Path("out"), engine={"address": "http://head:8265"})
    with pytest.raises(PlanError, match=r"output\.path") as caught:
        submission.submit(load(path))
    assert caught.value.page == "job-output"


def test_a_local_run_keeps_its_folder(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "plan.json").write_text("{}")
    with pytest.raises(RunConflictError, match="holds a run of this machine"):
        submission.submit(remote(tmp_path / "here"))
    assert not cluster.jobs.sent


@pytest.fixture
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (authentication.MODE, authentication.TOKEN, authentication.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.drill(20)
def test_a_token_is_looked_for_where_its_owner_puts_it(
    no_token: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    with pytest.raises(EngineError, match="there is no token") as caught:
        authentication.token()
    assert caught.value.page == "cluster-token"
    drill(caught.value.what)
    assert list(no_token.iterdir()) == [], "none is made up"
    (no_token / ".ray").mkdir()
    (no_token / ".ray" / "auth_token").write_text("home\n")
    assert authentication.token() == "home"
    (no_token / "mine").write_text("file\n")
    monkeypatch.setenv(authentication.TOKEN_PATH, str(no_token / "mine"))
    assert authentication.token() == "file"
    (no_token / "mine").write_text("\n")
    with pytest.raises(EngineError, match="is empty"):
        authentication.token()
    monkeypatch.setenv(authentication.TOKEN_PATH, str(no_token / "gone"))
    with pytest.raises(EngineError, match="cannot be read"):
        authentication.token()
    monkeypatch.setenv(authentication.TOKEN, "given")
    assert authentication.token() == "given"
    monkeypatch.setenv(authentication.MODE, "disabled")
    with pytest.raises(EngineError, match="'disabled', expected 'token'"):
        authentication.token()


class _Answer(BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Answer) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.drill(20)
def test_an_open_head_is_sent_nothing(
    server: HTTPServer, no_token: Path, monkeypatch: pytest.MonkeyPatch, drill: Seen
) -> None:
    monkeypatch.setenv(authentication.TOKEN, "secret")
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(JobError, match="asks for no token") as caught:
        connect(address)
    assert caught.value.page == "cluster-without-authentication"
    drill(caught.value.what)
    monkeypatch.setattr(_Answer, "code", 404)
    with pytest.raises(JobError, match="answers 404"):
        connect(address)


def test_an_address_without_a_cluster_is_one_line(
    no_token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(authentication.TOKEN, "secret")
    with pytest.raises(JobError, match="no cluster answers at http://127") as caught:
        connect("http://127.0.0.1:1")
    assert "\n" not in caught.value.what
    with pytest.raises(JobError, match="expected 'http://host:port'"):
        connect("http://head:8265/path/of/something")
