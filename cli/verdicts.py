"""How gates are told: on the terminal, and to CI systems."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import output

if TYPE_CHECKING:
    from pipeline.gates.verdict import Verdict

JUnit = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML for CI systems."),
]


def tell(verdicts: Sequence["Verdict"]) -> None:
    """Print which gates are broken or held with a warning, and how many hold."""
    from pipeline.gates.verdict import tally

    for verdict in verdicts:
        if verdict.status != "passed":
            output.note(f"gate {verdict.status}: {verdict.name}: {verdict.message}")
    if verdicts:
        output.note(f"gates: {tally(verdicts)}")
    if any(verdict.status == "failed" for verdict in verdicts):
        output.see("broken-gate")


@contextmanager
def told_if_refused(junit: Path | None, suite: str) -> Iterator[None]:
    """Write JUnit XML that says why, where nothing can be judged and it was asked for."""
    from pipeline.errors import XpipeError

    try:
        yield
    except XpipeError as error:
        if junit is not None:
            from pipeline.gates.junit import write as write_junit

            write_junit(junit, suite, (), refused=str(error))
        raise


def write(junit: Path | None, suite: str, verdicts: Sequence["Verdict"]) -> None:
    """Write JUnit XML where it was asked for, also if there are no gates."""
    if junit is not None:
        from pipeline.gates.junit import write as write_junit

        write_junit(junit, suite, verdicts)
