"""A run tells of clusters that were confirmed, and of classes that were left out."""

import json
from pathlib import Path

import pytest
import typer

from cli.run import _conclude
from pipeline.run import RunSummary
from pipeline.spray.findings import Finding


def concluded(*, as_json: bool) -> None:
    rows = tuple(
        Finding("lrp", "class:7", n, 150, 0.5, 1.0, 0.0, verdict, rate, 0.0)
        for n, (verdict, rate) in enumerate((("clever_hans", 0.98), ("cluster", float("nan"))))
    )
    notes = ("lrp: Not analysed",)
    summary = RunSummary(Path("run"), 0, 9, 0, (), 1.0, n_done=9, clusters=rows, notes=notes)
    with pytest.raises(typer.Exit):
        _conclude(summary, as_json=as_json)


def test_a_run_tells_of_what_was_confirmed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    concluded(as_json=False)
    out, err = capsys.readouterr()
    assert "clever_hans" in out
    assert "0.98" in out
    assert out.count("class:7") == 1
    assert "lrp: Not analysed" in err


def test_a_run_tells_programs_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    concluded(as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in told["clusters"]] == ["clever_hans", "cluster"]
    assert told["clusters"][1]["flip_rate"] is None
