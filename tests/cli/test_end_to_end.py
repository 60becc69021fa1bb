"""The whole command line on small runs: exit codes, JSON, stopping, repairing."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app

XPIPE = str(Path(sys.executable).parent / "xpipe")

CODE = """
import time

import torch
from torch import nn


def load():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)
    ).eval()


class Images:
    def __init__(self, n, bad=(), seconds=0.0):
        self.n, self.bad, self.seconds = n, bad, seconds

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        time.sleep(self.seconds)
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
        if index in self.bad:
            image[0, 0, 0] = float("nan")
        return image, index % 3
"""

RUN_FILE = """
name: tiny
model: {source: python, name: "tiny.py:load"}
data: {source: python, function: "tiny.py:Images", params: {n: 24}}
explainers:
  saliency: {}
  lrp: {composite: epsilon_plus}
  statistics: {method: moments}
metrics: {sparseness: {}}
output: {path: OUT, shard_size: 4}
engine: {kind: serial, batch_size: 4}
report: {samples: 4}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.py").write_text(CODE)
    path = tmp_path / "run.yaml"
    path.write_text(RUN_FILE.replace("OUT", str(tmp_path / "out")))
    return path


def xpipe(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answered(*arguments: object, code: int = 0) -> Any:
    result = xpipe(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@contextmanager
def in_background(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [XPIPE, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(check: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def n_committed(folder: Path) -> int:
    return len(list((folder / "ledger" / "explain").glob("*.json")))


@pytest.mark.slow
def test_a_run_is_planned_run_and_looked_at(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = answered("plan", run_file)
    assert (planned["n_samples"], planned["shard_size"]) == (24, 4)
    assert not out.exists(), "plan writes nothing"

    summary = answered("run", run_file)
    assert summary["exit_code"] == 0
    assert summary["n_samples"] == 24
    assert Path(summary["report"]).is_file()

    status = answered("status", out)
    assert status["state"] == "done"
    assert all(entry["done"] == entry["shards"] == 6 for entry in status["passes"])
    assert [entry["run"] for entry in answered("list", tmp_path)] == [str(out)]

    events = [json.loads(line) for line in xpipe("logs", out, "--json").stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["run_started", "run_finished"]

    names = {row["name"] for row in answered("inspect", out)}
    assert {"maps/saliency", "maps/lrp", "scans/statistics/mean"} <= names
    layers = [row["layer"] for row in answered("inspect", run_file)["layers"]]
    assert layers == ["0", "1", "2", "3"]

    assert answered("evaluate", out)["n_scored"] == 0, "the run has scored everything"
    again = answered("evaluate", out, "--metric", "pixel_flipping")
    assert again["metrics"] == ["pixel_flipping"]
    assert answered("verify", out) == []
    page = answered("report", out, "--out", tmp_path / "page.html")
    assert Path(page["report"]).stat().st_size == page["bytes"]

    resumed = answered("resume", out)
    assert resumed["exit_code"] == 0


@pytest.mark.slow
def test_words_say_what_json_says(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "24 of 1 x 8 x 8" in xpipe("plan", run_file).stdout
    run = xpipe("run", run_file)
    assert run.exit_code == 0, run.output
    assert "24 of 24 samples" in run.stdout
    assert "explain: 24/24" in run.stderr
    assert "done" in xpipe("status", out).stdout
    assert str(out) in xpipe("list", tmp_path).stdout
    assert "shard committed" in xpipe("logs", out).stdout
    assert "maps/lrp" in xpipe("inspect", out).stdout
    assert "Convolution" in xpipe("inspect", run_file).stdout
    assert "sparseness" in xpipe("evaluate", out).stdout
    assert "everything matches" in xpipe("verify", out).stderr
    assert xpipe("report", out).stdout.strip() == str(out / "report.html")
    assert "opaque" not in xpipe("doctor", run_file).stdout


@pytest.mark.slow
def test_limit_and_only_narrow_a_run(run_file: Path, tmp_path: Path) -> None:
    planned = answered("plan", run_file, "--limit", 8, "--only", "saliency")
    assert planned["n_samples"] == 8
    assert list(planned["maps"]) == ["saliency"]
    summary = answered("run", run_file, "--limit", 8, "--only", "saliency")
    assert summary["n_samples"] == 8
    assert {row["name"] for row in answered("inspect", tmp_path / "out")} == {"maps/saliency"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("modle.source=x", "did you mean 'model'"),
        ("model.name=tiny.py:lod", "lod"),
        ("explainers.lrp.composit=epsilon_plus", "did you mean 'composite'"),
        ("explainers.salency={}", "salency"),
        ("target=7", "7"),
        ("data.source=mnist", "mnist"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    override: str, said: str, run_file: Path, tmp_path: Path
) -> None:
    for command in ("plan", "run"):
        result = xpipe(command, run_file, "-s", override)
        assert result.exit_code == 3, result.output
        assert said in result.stderr
        assert "to fix:" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_only_refuses_a_name_that_is_not_there(run_file: Path) -> None:
    for command in ("plan", "run"):
        result = xpipe(command, run_file, "--only", "salency")
        assert result.exit_code == 3
        assert "did you mean 'saliency'" in result.stderr


@pytest.mark.slow
def test_failed_samples_are_named_and_exit_with_5(run_file: Path, tmp_path: Path) -> None:
    summary = answered("run", run_file, "-s", "data.params={n: 24, bad: [5]}", code=5)
    assert summary["n_failed"] == 1
    status = answered("status", tmp_path / "out")
    assert status["state"] == "done with failures"
    assert [failure["reason"] != "" for failure in status["failures"]] == [True]
    listed = answered("list", tmp_path)
    assert listed[0]["failed"] == 1


@pytest.mark.slow
def test_another_run_in_the_same_folder_is_refused(run_file: Path) -> None:
    assert xpipe("run", run_file).exit_code == 0
    result = xpipe("run", run_file, "-s", "seed=1")
    assert result.exit_code == 3
    assert "seed" in result.stderr


@pytest.mark.slow
def test_a_flipped_byte_is_found_and_repaired(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert xpipe("run", run_file).exit_code == 0
    record = json.loads(next((out / "ledger" / "explain").glob("*.json")).read_text())
    shard = out / next(name for name in record["objects"] if name.startswith("maps.zarr/lrp/"))
    before = shard.read_bytes()
    shard.write_bytes(bytes([before[0] ^ 1]) + before[1:])

    found = answered("verify", out, code=1)
    assert [problem["kind"] for problem in found] == ["damaged"]
    repaired = answered("verify", out, "--repair")
    assert [problem["kind"] for problem in repaired] == ["damaged"]
    assert shard.read_bytes() == before
    assert answered("verify", out) == []


@pytest.mark.slow
def test_a_live_run_is_stopped_and_resumed(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = "data.params={n: 24, seconds: 0.1}"
    with in_background("run", run_file, "-s", slow) as process:
        wait_for(lambda: n_committed(out) >= 1)
        assert answered("status", out)["state"] == "running"
        assert xpipe("run", run_file, "-s", slow).exit_code == 3, "a live owner is not disturbed"
        assert answered("stop", out)["pid"] == process.pid
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    n_before = n_committed(out)
    assert 1 <= n_before < 6
    assert answered("status", out)["state"] == "interrupted"

    assert answered("resume", out)["exit_code"] == 0
    events = [json.loads(line) for line in xpipe("logs", out, "--json").stdout.splitlines()]
    shards = [
        event["shard"]
        for event in events
        if event["event"] == "shard_committed" and event["pass_name"] == "explain"
    ]
    assert sorted(shards) == list(range(6)), "nothing is done twice"
    assert xpipe("stop", out).exit_code == 1


@pytest.mark.slow
def test_a_run_is_stopped_at_once(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with in_background("run", run_file, "-s", "data.params={n: 24, seconds: 0.5}") as process:
        wait_for(lambda: n_committed(out) >= 1)
        time.sleep(0.5)
        assert xpipe("stop", out, "--now").exit_code == 0
        n_before = n_committed(out)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    # a shard takes two seconds: an orderly stop would still have committed the one in flight
    assert n_committed(out) == n_before < 6


@pytest.mark.slow
@pytest.mark.ray
def test_the_quickstart_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        "init digits --from quickstart",
        "plan digits/run.yaml --limit 24",
        "run digits/run.yaml --limit 24 -s output.path=runs/digits -s engine.workers=2",
        "status runs/digits",
        "report runs/digits",
    ]
    for line in lines:
        answer = subprocess.run(
            [XPIPE, *line.split()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, (line, answer.stdout, answer.stderr)
    page = (tmp_path / "runs" / "digits" / "report.html").read_text()
    assert "integrated_gradients" in page
