"""Commands that look something up: explainers, metrics, inspect, schema."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.options import AsJson, Overrides

AsMarkdown = Annotated[
    bool, typer.Option("--markdown", help="Print the table in Markdown, for documents.")
]


def explainers(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show one, with its parameters.")
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """List the explainers, or show what one takes, costs and requires.

    Example:  xpipe explainers integrated_gradients
    """
    from pipeline import catalogue

    if name is not None:
        _show_entry(catalogue.explainer, name, as_json=as_json)
        return
    _show_rows(catalogue.explainers(), catalogue.COLUMNS, as_json, as_markdown)


def metrics(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show one, with its parameters.")
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """List the metrics, or show what one takes and how it is read.

    Example:  xpipe metrics pixel_flipping
    """
    from pipeline import catalogue

    if name is not None:
        _show_entry(catalogue.metric, name, as_json=as_json)
        return
    _show_rows(catalogue.metrics(), catalogue.METRIC_COLUMNS, as_json, as_markdown)


def schema() -> None:
    """Print the JSON schema of run files, for editors that complete and check YAML.

    Example:  xpipe schema > run.schema.json
    """
    from pipeline.schema import json_schema

    output.as_json(json_schema())


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run's folder, or a run file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run holds, or what a run file's model consists of.

    A run: every array with its dimensions, tables with their columns, the results of scans,
    graphs with how many causes each layer has. A run file: the model's layers, by the names that
    explainers take.

    Example:  xpipe inspect quickstart/run.yaml
    """
    if path.is_dir():
        from pipeline.inspection import contents

        rows = contents(path)
        if as_json:
            output.as_json(rows)
        else:
            output.table(rows, ("name", "dims", "shape", "dtype"))
        return
    from pipeline.inspection import layers

    found = layers(path, overrides or ())
    if as_json:
        output.as_json(found)
        return
    output.table(found["layers"], ("layer", "operator", "shape"))
    output.note(found["note"])


def _show_rows(
    rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, as_markdown: bool
) -> None:
    if as_json:
        output.as_json(rows)
    elif as_markdown:
        from pipeline.catalogue import markdown

        output.line(markdown(rows, columns))
    else:
        output.table(rows, columns)


def _show_entry(find: Callable[[str], Mapping[str, Any]], name: str, *, as_json: bool) -> None:
    try:
        entry = find(name)
    except LookupError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="NAME") from None
    if as_json:
        output.as_json(entry)
        return
    output.line(entry["documentation"])
    output.line("")
    left_out = ("documentation", "parameters", "summary", "cost")
    output.fields({key: value for key, value in entry.items() if key not in left_out})
    if entry["parameters"]:
        output.line("")
        rows = [{"parameter": name, **about} for name, about in entry["parameters"].items()]
        output.table(rows, ("parameter", "default", "type", "documentation"))
