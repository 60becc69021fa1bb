"""Bounds of means, judged by what a run has stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.compare.score_drift import n_scored
from pipeline.comparisons import CONTROLS
from pipeline.gates import clusters, grammar
from pipeline.gates.verdict import Verdict, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pipeline.aggregate import Aggregate, Judged
    from pipeline.config import RunConfig
    from pipeline.gates.grammar import AbsoluteGate, Place
    from pipeline.gates.verdict import Status
    from pipeline.store import Run

MIN_COVERAGE = 0.99
"""Share of the samples that have to be scored: of fewer, a mean says little of the run."""
NAN = float("nan")


def judge(
    run: Run,
    metrics: Sequence[Judged],
    rows: Sequence[Aggregate],
    asked: Collection[str],
) -> tuple[Verdict, ...]:
    """Judge the absolute gates of a run and write gates.json.

    A gate is about the mean over the samples with a defined score. What nothing shows to hold is
    broken: a score without any defined value, one that fewer than `MIN_COVERAGE` of the run's
    samples were looked at for, or one of a metric that was asked for and has none.

    Parameters
    ----------
    run
        The run.
    metrics
        The metrics that it was evaluated with, now or before.
    rows
        Its aggregates.
    asked
        Metrics that were asked for now, and analyses (`clusters.of`); gates of others, where they
        have no scores, are skipped.
    """
    gates = [grammar.parse(gate) for gate in run.config.gates if isinstance(gate, str)]
    verdicts = judged(run, gates, metrics, rows, asked)
    if gates:
        run.folder.write(paths.GATES, to_json(verdicts).encode())
    else:
        run.folder.remove(paths.GATES)
    return verdicts


def judged(
    run: Run,
    gates: Iterable[AbsoluteGate],
    metrics: Sequence[Judged],
    rows: Sequence[Aggregate],
    asked: Collection[str],
) -> tuple[Verdict, ...]:
    """Return the verdicts of some gates; parameters as of `judge`."""
    known = {metric.name: metric for metric in metrics}
    counts = {metric.name: n_scored(run, metric) for metric in metrics}
    found = {(r.explainer, r.metric, r.column, r.group): r for r in rows if r.step < 0}
    verdicts: list[Verdict] = []
    for gate in gates:
        place = grammar.place(gate, {*run.config.metrics, *known})
        if place.metric == grammar.CLUSTERS:
            verdicts += clusters.verdicts(gate, place, run, asked)
            continue
        metric = known.get(place.metric)
        if metric is None:
            status: Status = "failed" if place.metric in asked else "skipped"
            said = f"{place.metric} has not been evaluated"
            verdicts.append(_unknown(gate, place, status, said))
            continue
        verdicts += [
            _verdict(
                gate,
                metric,
                explainer,
                place,
                found,
                (counts[metric.name].get(explainer, 0), run.plan.n_samples),
            )
            for explainer in explainers(run.config, metric, place.explainer)
        ] or [_unknown(gate, place, "failed", f"{place.metric} has scored no explainer")]
    return tuple(verdicts)


def explainers(config: RunConfig, metric: Judged, wanted: str) -> tuple[str, ...]:
    """Return whom a gate is about: `wanted`, or every explainer that is scored but controls.

    What is asked of every explainer is not asked of what knows no network.
    """
    if wanted != grammar.EVERY:
        return (wanted,)
    return tuple(name for name in metric.explainers if not _is_control(config, name))


def _is_control(config: RunConfig, explainer: str) -> bool:
    entry = explainer.partition(".")[0]
    return str(config.explainers.get(entry, {}).get("method", entry)) in CONTROLS


def _verdict(
    gate: AbsoluteGate,
    metric: Judged,
    explainer: str,
    place: Place,
    rows: dict[tuple[str, str, str, str], Aggregate],
    scored: tuple[int, int],
) -> Verdict:
    column = place.column or metric.headline
    about = grammar.Place(explainer, place.metric, column, place.group)
    row = rows.get((explainer, place.metric, column, place.group))
    if row is None:
        return _unknown(gate, about, "failed", _missing(about, rows))
    n_done, n_samples = scored
    is_known = n_done >= MIN_COVERAGE * n_samples
    said = _said(gate, row) if is_known else f"only {n_done} of {n_samples} samples are scored"
    return Verdict(
        gate=gate.text,
        kind="absolute",
        status="passed" if is_known and gate.holds(row.mean) else "failed",
        explainer=explainer,
        metric=place.metric,
        column=column,
        group=place.group,
        n=row.n,
        value=row.mean,
        low=row.low,
        high=row.high,
        limit=gate.limit,
        message=said,
    )


def _said(gate: AbsoluteGate, row: Aggregate) -> str:
    if not row.n:
        return "no sample has a defined score"
    of_samples = f"the mean over {row.n} {'sample' if row.n == 1 else 'samples'}"
    if row.n_undefined:
        of_samples += f" ({row.n_undefined} undefined)"
    return f"{of_samples} is {row.mean:.4g}, which has to be {gate.comparison} {gate.limit:g}"


def _missing(place: Place, rows: Collection[tuple[str, str, str, str]]) -> str:
    """Return why there is no such score, from the general to the particular."""
    from explainers.registry import suggest

    of_metric = [each for each in rows if each[1] == place.metric]
    steps = (
        ("explainer", 0, f"{place.metric} does not score {place.explainer!r}"),
        ("column", 2, f"{place.metric} has no score {place.column!r}"),
        ("group", 3, f"no samples are in the group {place.group!r}"),
    )
    for name, position, said in steps:
        wanted = getattr(place, name)
        present = list(dict.fromkeys(each[position] for each in of_metric))
        if wanted not in present:
            return f"{said}; {suggest(wanted, present)}" if present else said
        of_metric = [each for each in of_metric if each[position] == wanted]
    return "there is no such score"


def _unknown(gate: AbsoluteGate, place: Place, status: Status, message: str) -> Verdict:
    return Verdict(
        gate=gate.text,
        kind="absolute",
        status=status,
        explainer=place.explainer,
        metric=place.metric,
        column=place.column,
        group=place.group,
        n=0,
        value=NAN,
        low=NAN,
        high=NAN,
        limit=gate.limit,
        message=message,
    )
