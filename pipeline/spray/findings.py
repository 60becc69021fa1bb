"""The clusters of an analysis in rows, and what was left out of it in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.spray.result import Analysis, Cluster, View

MOST_NAMED = 20
"""Classes that are named, where more are left out."""


@dataclass(frozen=True)
class Finding:
    """One cluster of one class, in a row."""

    explainer: str
    view: str
    cluster: int
    size: int
    share: float
    tau: float
    """Of the view."""
    second_eigenvalue: float
    """Of the view; about 0 where the maps of the class fall apart."""
    verdict: str
    flip_rate: float
    """NaN where nothing was checked."""
    control_rate: float


def findings(analysis: Analysis) -> list[Finding]:
    """Return the clusters of classes, the most suspicious class first."""
    return [_finding(analysis, view, each) for view in analysis.ranked for each in view.clusters]


def left_out(analysis: Analysis, name: Callable[[int], str] = str) -> Iterator[str]:
    """Yield which classes are not analysed, in a sentence.

    Parameters
    ----------
    analysis
        Of an explainer's maps.
    name
        Returns what a class is called.
    """
    if not analysis.skipped:
        return
    least = analysis.parameters["min_samples"]
    told = [f"{name(target)} ({n})" for target, n in list(analysis.skipped.items())[:MOST_NAMED]]
    more = len(analysis.skipped) - len(told)
    named = ", ".join(told) + (f" and {more} more" if more else "")
    if analysis.ranked:
        yield f"Not analysed, as they have fewer than {least} maps (min_samples): classes {named}."
    else:
        yield f"No class was analysed, as all have fewer than {least} maps (min_samples): {named}."


def _finding(analysis: Analysis, view: View, cluster: Cluster) -> Finding:
    outcome = cluster.counterfactual
    return Finding(
        explainer=analysis.explainer,
        view=view.name,
        cluster=cluster.label,
        size=cluster.size,
        share=cluster.share,
        tau=view.tau,
        second_eigenvalue=float(view.eigenvalues[1]),
        verdict=cluster.verdict,
        flip_rate=float("nan") if outcome is None else outcome.flip_rate,
        control_rate=float("nan") if outcome is None else outcome.control_rate,
    )
