"""A run is worked on where the run file's own files are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipeline.store import open_run
from tests.pipeline.tiny_run import write_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def xpipe(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_run_whose_files_are_elsewhere_says_so_and_takes_the_new_place(tmp_path: Path) -> None:
    run, before, now = tmp_path / "run", tmp_path / "before", tmp_path / "now"
    engine = {"kind": "serial"}
    assert xpipe("run", write_run(before, run, engine=engine), "--limit", 8)[0] == 0
    before.rename(now)
    code, said = xpipe("resume", run)
    assert code == 3
    assert f"the run file's own folder, '{before}', is not on this machine" in said
    assert "--base FOLDER" in said
    assert xpipe("evaluate", run, "--base", tmp_path / "nowhere")[0] == 3
    code, said = xpipe("evaluate", run, "--base", now)
    assert code == 0, said
    # written down: nobody has to say it again
    assert open_run(run).config.base == now
    assert open_run(run).config.engine.address == "local"
    code, said = xpipe("resume", run)
    assert code == 0, said
    code, said = xpipe("report", run)
    assert code == 0
    assert "no inputs" not in said
