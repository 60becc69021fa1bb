"""The command that writes runs in formats of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.options import AsJson, RunFolder


def export(
    path: RunFolder,
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="hdf5, netcdf, npz or virelay.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PATH", help="What to write; in RUN/export if not given."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Export this explainer; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write maps, facts and scores of a run as one file, or as a project of ViRelAy.

    Shards that are not done are NaN. Needs the extra `export`, but for npz.

    Example:  xpipe export runs/quickstart netcdf --only lrp
    """
    from pipeline.export import export as export_run

    written = export_run(path, form, out, only or None)
    if as_json:
        output.as_json({"format": form, "path": written})
    else:
        output.line(str(written))
