"""Commands that judge runs: evaluate, report, verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import clusters, output, verdicts
from cli.options import AsJson, Base, RunFolder

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluation


Spray = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EXPLAINER",
        help="Cluster this explainer's maps and check the clusters; repeatable. Those of the run "
        "file if neither this nor --metric is given.",
    ),
]


def evaluate(
    path: RunFolder,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            metavar="NAME",
            help="Score with this metric; repeatable. The run file's metrics if not given.",
        ),
    ] = None,
    junit: verdicts.JUnit = None,
    spray: Spray = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Score the stored maps of a run; scores that are there already are not computed again.

    Exits with 4 if a gate of the run file is broken, else with 5 if samples failed, have no maps
    yet or could not be scored.

    Example:  xpipe evaluate runs/quickstart --metric sparseness
    """
    from dataclasses import asdict

    from cli.progress import Reporter
    from pipeline import moved
    from pipeline.evaluate import evaluate as evaluate_run

    if base is not None:
        moved.rebase(path, base)
    with moved.named(path), Reporter() as reporter:
        evaluation = evaluate_run(path, metric or None, spray=spray or None, callbacks=(reporter,))
    verdicts.write(junit, evaluation.path.name, evaluation.gates)
    if as_json:
        output.as_json(asdict(evaluation))
    else:
        _show_scores(evaluation)
        clusters.show(evaluation.clusters)
        _tell_unbeaten(evaluation)
    for text in evaluation.notes:
        output.note(text)
    verdicts.tell(evaluation.gates)
    output.given_up(evaluation.quarantined)
    raise typer.Exit(evaluation.exit_code)


def _show_scores(evaluation: "Evaluation") -> None:
    against = _against(evaluation)
    headings = list(dict.fromkeys(heading for each in against.values() for heading in each))
    rows = [
        {
            "metric": entry.metric,
            "explainer": entry.explainer,
            "score": entry.column,
            "better": entry.direction,
            "mean": entry.mean,
            "95 % interval": f"{entry.low:.4g} to {entry.high:.4g}",
            "median": entry.median,
            "samples": entry.n,
            "undefined": entry.n_undefined,
            **dict.fromkeys(headings, ""),
            **against.get((entry.metric, entry.column, entry.explainer), {}),
        }
        for entry in evaluation.aggregates
        if entry.metric in evaluation.metrics and entry.group == "all" and entry.step < 0
    ]
    numbers = ("mean", "95 % interval", "median", "samples", "undefined")
    columns = ("metric", "explainer", "score", "better", *numbers, *headings)
    output.table(rows, columns, right=numbers)


def _tell_unbeaten(evaluation: "Evaluation") -> None:
    from pipeline.comparisons import unbeaten

    for metric, controls in unbeaten(evaluation.comparisons).items():
        names = " or ".join(controls)
        output.note(f"{metric}: no explainer beats {names}, which knows nothing of the model")


def _against(evaluation: "Evaluation") -> dict[tuple[str, str, str], dict[str, str]]:
    """Return what each headline is beside the best and the controls, over all samples."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in evaluation.comparisons:
        if row.group != "all" or row.kind == "pair":
            continue
        of_metric = (row.metric, row.column)
        if row.kind == "best":
            found.setdefault((*of_metric, row.reference), {})["to the best"] = "the best"
        heading = "to the best" if row.kind == "best" else f"to {row.reference}"
        found.setdefault((*of_metric, row.explainer), {})[heading] = row.verdict
    return found


def report(
    path: RunFolder,
    against: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", help="Earlier runs to compare it with.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where; RUN/report.html if not given."),
    ] = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's page: one HTML file that needs nothing beside it.

    Example:  xpipe report runs/today runs/yesterday
    """
    from pipeline import moved
    from pipeline.report import build

    if base is not None:
        moved.rebase(path, base)
    page = build(path, out, against=against or ())
    if as_json:
        from pipeline.paths import Folder

        written = Folder(str(page.parent)).read(page.name)
        output.as_json({"report": page, "bytes": len(written)})
    else:
        output.line(str(page))


def verify(
    path: RunFolder,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Take back what does not match and compute it again."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read everything a run has stored and compare it with the records that vouch for it.

    Exits with 1 if something does not match and was not repaired. Objects that no record vouches
    for count for nothing; they are listed as notes.

    Example:  xpipe verify runs/quickstart --repair
    """
    from dataclasses import asdict

    if repair:
        from cli.progress import Reporter
        from pipeline.runs import repair as repair_run

        with Reporter() as reporter:
            problems, summary = repair_run(path, callbacks=(reporter,))
        exit_code = 0 if summary is None else summary.exit_code
    else:
        from pipeline.verify import verify as verify_run

        problems = verify_run(path)
        exit_code = int(any(not problem.is_note for problem in problems))
    if as_json:
        output.as_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            output.line(str(problem))
        output.note(_verdict(sum(not problem.is_note for problem in problems), repair=repair))
    raise typer.Exit(exit_code)


def _verdict(n_problems: int, *, repair: bool) -> str:
    if not n_problems:
        return "everything matches its record"
    if repair:
        return f"{n_problems} problems were found and computed again"
    return f"{n_problems} problems; xpipe verify --repair computes what they concern again"
