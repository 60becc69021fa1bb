"""What is said of an interrupted run is what is left of it."""

from pathlib import Path

import pytest
import typer

from cli.run import _conclude
from pipeline.run import RunSummary


@pytest.mark.parametrize(
    ("report", "said"),
    [(None, "xpipe resume run goes on"), (Path("run/report.html"), "nothing is left to go on")],
)
def test_resume_is_advised_where_something_is_left(
    report: Path | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = RunSummary(Path("run"), 130, 9, 0, (), 1.0, report=report, n_done=9)
    with pytest.raises(typer.Exit) as ended:
        _conclude(summary, as_json=False)
    assert ended.value.exit_code == 130
    assert said in capsys.readouterr().err
