"""The `xpipe` command: what it offers, and how errors become exit codes.

Torch, Ray and the pipeline are imported inside the commands, so that `--help` and shell
completion answer at once.
"""

import os
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import atlas, compare, evaluate, export, graph, jobs, look, output, run, schedule
from cli import doctor as doctor_command
from pipeline.errors import XpipeError

INTERRUPTED = 130


class _Commands(TyperGroup):
    """Commands whose errors are told as what, fix and page; a traceback only when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands as they were added, which is how one uses them."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and turn what went wrong into an exit code."""
        is_debug = bool(ctx.params.get("debug")) or os.environ.get("XPIPE_DEBUG") == "1"
        try:
            return super().invoke(ctx)
        except XpipeError as error:
            if is_debug:
                output.traceback()
            output.error(error.what, error.fix, error.page)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            output.note("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="xpipe",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        output.line(version("xpipe-xai"))
        raise typer.Exit


@app.callback()
def _xpipe(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors (or XPIPE_DEBUG=1).")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Explain whole data sets: every attribution method, sharded over Ray, written to Zarr.

    Start with:  xpipe init quickstart && xpipe run quickstart/run.yaml
    """


for panel, commands in {
    "Run": (run.init, run.plan, run.run, run.resume, jobs.stop),
    "Watch": (jobs.list_runs, jobs.status, jobs.logs),
    "Judge": (evaluate.evaluate, evaluate.report, compare.compare, evaluate.verify, export.export),
    "Look": (
        look.explainers,
        look.metrics,
        look.inspect,
        atlas.atlas,
        graph.graph,
        look.schema,
    ),
    "Operate": (doctor_command.doctor,),
}.items():
    for command in commands:
        name = {"list_runs": "list"}.get(command.__name__, command.__name__)
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(schedule.app, rich_help_panel="Operate")


def main() -> None:
    """Run the command line; this is what the script `xpipe` calls."""
    app()


if __name__ == "__main__":
    main()
