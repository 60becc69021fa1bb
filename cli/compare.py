"""The command that says what has changed from one run to another."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import output, verdicts
from cli.options import AsJson

if TYPE_CHECKING:
    from pipeline.compare import Comparison
    from pipeline.gates.verdict import Verdict


def compare(
    previous: Annotated[
        str, typer.Argument(metavar="A", help="The earlier run's folder.", show_default=False)
    ],
    current: Annotated[
        str, typer.Argument(metavar="B", help="The later run's folder.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write a page with pictures there."),
    ] = None,
    junit: verdicts.JUnit = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="Judge this gate in place of those of B's run file: as in a run file, or the "
            "name of a YAML file; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same samples: scores, and the maps themselves.

    Changes are paired by sample. Exits with 3 if the runs cannot be compared and with 4 if a gate
    is broken.

    Example:  xpipe compare runs/march runs/april --gate "{metric: pixel_flipping, max_drop: 5%}"
    """
    from pipeline.compare import compare as compare_runs
    from pipeline.gates.judging import chosen, judge
    from pipeline.gates.verdict import BROKEN
    from pipeline.store import open_run

    with verdicts.told_if_refused(junit, f"{previous} to {current}"):
        before, after = open_run(previous), open_run(current)
        gates = chosen(after, gate or None)
        comparison = compare_runs(before, after)
        judged = judge(gates, before, after)
    verdicts.write(junit, f"{before.config.name} to {after.config.name}", judged)
    if out is not None:
        from pipeline.compare.page import build

        build(comparison, before, after, out, judged)
    _tell(comparison, judged, out, as_json=as_json)
    raise typer.Exit(BROKEN if any(verdict.is_broken for verdict in judged) else 0)


def _tell(
    comparison: "Comparison", judged: Sequence["Verdict"], out: Path | None, *, as_json: bool
) -> None:
    if as_json:
        gates = [asdict(verdict) for verdict in judged]
        output.as_json(asdict(comparison) | {"gates": gates})
    else:
        show(comparison)
        if out is not None:
            output.line(f"page: {out}")
    verdicts.tell(judged)


def show(comparison: "Comparison") -> None:
    """Print what has changed: scores, maps, and what is to be said about them."""
    output.line(
        f"{comparison.n_samples} samples, {comparison.n_predictions_changed} predicted differently"
    )
    rows: list[dict[str, Any]] = [
        {
            "metric": row.metric,
            "explainer": row.explainer,
            "score": row.column,
            "before": row.before,
            "now": row.after,
            "change": row.change,
            "95 % interval": f"{row.low:.4g} to {row.high:.4g}",
            "p (Holm)": row.p_holm,
            "verdict": row.verdict,
        }
        for row in comparison.scores
        if row.group == "all" and row.direction
    ]
    if rows:
        output.line("")
        output.table(rows, tuple(rows[0]), right=("before", "now", "change", "p (Holm)"))
    maps: list[dict[str, Any]] = [
        {
            "explainer": row.explainer,
            "rank correlation": row.rank_correlation.mean,
            "least": row.rank_correlation.least,
            "ndcg": row.ndcg.mean,
            "moved": f"{row.moved.mean:.1%}",
            "identical": row.n_identical,
            "samples": row.n,
            "worst": row.worst[0].sample_id if row.worst else None,
        }
        for row in comparison.maps
    ]
    if maps:
        output.line("")
        output.table(maps, tuple(maps[0]), right=tuple(maps[0])[1:-1])
    for text in (*comparison.notes, *comparison.changes):
        output.note(text)
