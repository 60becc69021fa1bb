"""`xpipe doctor`: is this machine fit."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.options import AsJson


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A run file to load and plan.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the machine, the libraries and, if given, a run file; say what to do.

    Exits with 1 if something is missing that every run needs.

    Example:  xpipe doctor quickstart/run.yaml
    """
    from dataclasses import asdict

    from pipeline.doctor import check

    findings = check(config)
    rows = [asdict(finding) for finding in findings]
    if as_json:
        output.as_json(rows)
    else:
        output.table(rows, ("name", "status", "found", "fix"))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)
