"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

RunFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A run file.", show_default=False)]

RunFolder = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The folder of a run, or its URL.", show_default=False),
]

Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="FOLDER",
        help="Where the run file's own files are now, if not where they were; kept with the run, "
        "which goes on on this machine.",
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="A.B=C", help="Change a value of the run file; repeatable."
    ),
]

Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="Explain the first N samples only (data.limit=N)."
    ),
]

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="Run this explainer only; repeatable."),
]

JobServer = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="Job server of a cluster; RUN is the run's name then."
    ),
]
