"""The command that writes an atlas: where it is, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.pipeline.atlas_run import listed_run

runner = CliRunner()


@pytest.mark.slow
def test_the_atlas_is_written_where_it_should_be(tmp_path: Path) -> None:
    run = listed_run(tmp_path)
    answer = runner.invoke(app, ["atlas", run.path, "--json"])
    assert answer.exit_code == 0
    index = Path(json.loads(answer.stdout)["atlas"])
    assert index == Path(run.path, "atlas", "index.html")
    assert index.is_file()
    out = tmp_path / "elsewhere"
    answer = runner.invoke(app, ["atlas", run.path, "--out", str(out), "--references", "1"])
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.strip() == str(out / "index.html")
    page = (out / "layers" / "conv1.html").read_text()
    assert len(re.findall(r"<li\b", page)) == 2 * 4  # of four concepts, one sample by each scan


def test_a_run_without_lists_is_told_which_scans_make_them(tmp_path: Path) -> None:
    run = listed_run(tmp_path, {"statistics": {"mean": np.zeros(3)}})
    answer = runner.invoke(app, ["atlas", run.path])
    assert answer.exit_code == 1
    assert "relevance_maximization" in answer.stderr
