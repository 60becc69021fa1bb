"""Bounds of how many clusters of maps are no good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.gates import grammar
from pipeline.gates.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pipeline.gates.grammar import AbsoluteGate, Place
    from pipeline.gates.verdict import Status
    from pipeline.spray.result import Analysis
    from pipeline.store import Run

NAN = float("nan")


def of(explainer: str) -> str:
    """Return what an analysis is called among the metrics that are asked for."""
    return f"{grammar.CLUSTERS}.{explainer}"


def verdicts(
    gate: AbsoluteGate,
    place: Place,
    run: Run,
    asked: Collection[str],
) -> Iterator[Verdict]:
    """Yield the verdicts of a gate on the confirmed clusters of classes, by explainer.

    What nothing shows to hold is broken: no cluster was checked, or an analysis was asked for and
    there is none.

    Parameters
    ----------
    gate
        A bound of a number of clusters.
    place
        What it is about; ``*`` is every explainer whose maps are or should be analysed.
    run
        Whose maps.
    asked
        See `of`; gates of others, where there is no analysis, are skipped.
    """
    analyses = run.spray
    every = tuple(dict.fromkeys((*run.config.spray, *analyses)))
    for explainer in every if place.explainer == grammar.EVERY else (place.explainer,):
        if explainer in analyses:
            yield _verdict(gate, explainer, analyses[explainer])
        else:
            status: Status = "failed" if of(explainer) in asked else "skipped"
            yield _told(gate, explainer, status, "the maps have not been analysed")


def _verdict(gate: AbsoluteGate, explainer: str, analysis: Analysis) -> Verdict:
    checked = [
        cluster
        for view in analysis.ranked
        for cluster in view.clusters
        if cluster.counterfactual is not None and cluster.counterfactual.n_pasted
    ]
    n_maps = sum(view.n for view in analysis.ranked)
    if not checked:
        return _told(gate, explainer, "failed", "no cluster was checked", n_maps)
    bad = [f"{view.name} cluster {cluster.label}" for view, cluster in analysis.clever_hans]
    message = (
        f"{len(bad)} of {len(checked)} checked clusters are confirmed as Clever Hans, which has "
        f"to be {gate.comparison} {gate.limit:g}"
    )
    if bad:
        message += f": {', '.join(bad)}"
    if analysis.skipped:
        message += f"; {len(analysis.skipped)} classes have too few maps"
    status: Status = "passed" if gate.holds(len(bad)) else "failed"
    return _told(gate, explainer, status, message, n_maps, float(len(bad)))


def _told(
    gate: AbsoluteGate,
    explainer: str,
    status: Status,
    message: str,
    n: int = 0,
    value: float = NAN,
) -> Verdict:
    return Verdict(
        gate=gate.text,
        kind="absolute",
        status=status,
        explainer=explainer,
        metric=grammar.CLUSTERS,
        column=grammar.CONFIRMED,
        group="all",
        n=n,
        value=value,
        low=NAN,
        high=NAN,
        limit=gate.limit,
        message=message,
    )
