"""The command that writes pages to browse the concepts of a run."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.options import AsJson, RunFolder


def atlas(
    path: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where; RUN/atlas if not given."),
    ] = None,
    references: Annotated[
        int,
        typer.Option(
            "--references", "-n", min=1, metavar="N", help="Samples shown of each list, at most."
        ),
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """Write pages to browse what each channel stands for: an index, and a page a layer.

    They need no server: open DIR/index.html in a browser. A run that computed reference heat
    maps (`references` of its scans) writes them by itself, to RUN/atlas.

    Example:  xpipe atlas runs/relmax --out public/atlas
    """
    from pipeline.atlas import build

    index = build(path, out, n_references=references)
    if as_json:
        output.as_json({"atlas": index})
    else:
        output.line(index)
