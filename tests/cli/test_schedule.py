"""`xpipe schedule`: what its commands print, write and exit with."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.main import app
from tests.pipeline.tiny_run import CODE, write_run

runner = CliRunner()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_run(
        tmp_path,
        explainers={"saliency": {}},
        metrics={"sparseness": {}},
        # whatever changes for sure breaks one of them
        gates=[
            {"metric": "sparseness", "direction": direction, "alpha": 0.5}
            for direction in ("higher", "lower")
        ],
        output={"path": "runs/{{ date }}"},
        engine={"kind": "serial"},
        report={"samples": 2},
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def xpipe(line: str) -> Result:
    return runner.invoke(app, ["schedule", *shlex.split(line)])


def added(options: str = "") -> Result:
    return xpipe(f'add nightly run.yaml --cron "0 2 * * *" --timezone Europe/Berlin {options}')


def test_a_schedule_is_added_listed_exported_and_removed(project: Path) -> None:
    answer = added("--keep 2 --compare -s seed=3")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == "schedules/nightly.yaml\n"
    assert yaml.safe_load((project / "schedules/nightly.yaml").read_text()) == {
        "config": "run.yaml",
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "set": ["seed=3"],
        "keep": 2,
        "compare": True,
    }
    (row,) = json.loads(xpipe("list --json").stdout)
    assert (row["schedule"], row["last"]) == ("nightly", None)
    assert json.loads(xpipe("next nightly -n 3 --json").stdout)[0] == row["next"]
    assert len(xpipe("next nightly -n 3").stdout.splitlines()) == 3
    units = project / "units"
    assert xpipe(f"export nightly --as systemd --out {units}").exit_code == 0
    assert sorted(path.name for path in units.iterdir()) == [
        "xpipe-nightly.service",
        "xpipe-nightly.timer",
    ]
    assert "CRON_TZ=Europe/Berlin" in xpipe("export nightly --as cron").stdout
    assert xpipe("export nightly --as kubernetes").exit_code == 3
    job = xpipe("export nightly --as kubernetes --image i --claim c").stdout
    assert yaml.safe_load(job)["kind"] == "CronJob"
    assert xpipe("remove nightly").exit_code == 0
    assert xpipe("list").stdout == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('add nightly run.yaml --cron "0 2 * *"', "has 4 fields"),
        ("add nightly run.yaml --cron @hourly", "has one folder"),
        ("add nightly nothing.yaml --cron @daily", "cannot read the run file"),
        ("add nightly run.yaml --cron @daily -s output.path=runs/{{day}}", "stands for nothing"),
        ("next nightly", "there is no schedule 'nightly'"),
        ("run nightly", "there is no schedule 'nightly'"),
        ("remove nightly", "there is no schedule 'nightly'"),
    ],
)
def test_what_cannot_be_is_refused(project: Path, line: str, said: str) -> None:
    answer = xpipe(line)
    assert answer.exit_code == 3
    assert said in answer.stderr
    assert not (project / "schedules" / "nightly.yaml").exists()


@pytest.mark.slow
def test_two_occurrences_end_to_end(project: Path) -> None:
    assert added("--keep 1 --compare").exit_code == 0
    first = xpipe("run nightly --at 2026-11-20T09:00 --json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["path"] == str(project / "runs" / "2026-11-20")
    assert "nothing to compare with yet" in first.stderr or json.loads(first.stdout)["notes"]
    # another network: scores change
    (project / "tiny.py").write_text(CODE.replace("manual_seed(0)", "manual_seed(5)"))
    second = xpipe(f"run nightly --at 2026-11-21T02:00 --junit {project / 'gates.xml'}")
    assert second.exit_code == 4, second.output
    assert "gate failed: saliency.sparseness" in second.stderr
    assert 'failures="1"' in (project / "gates.xml").read_text()
    stored = project / "runs" / "2026-11-21"
    assert (stored / "comparison.html").is_file()
    assert yaml.safe_load((stored / "run.yaml").read_text())["output"]["path"] == str(stored)
    assert runner.invoke(app, ["verify", str(stored)]).exit_code == 0
    third = xpipe("run nightly --at 2026-11-22T09:00")
    assert third.exit_code == 0, third.output
    assert "removed: " in third.stdout
    assert sorted(path.name for path in (project / "runs").iterdir()) == [
        "2026-11-21",
        "2026-11-22",
    ]
    (row,) = json.loads(xpipe("list --json").stdout)
    assert (row["exit code"], row["run"]) == (0, "runs/2026-11-22")
