"""What a spectral relevance analysis found, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.report.formats import count, percent
from pipeline.spray.result import CLEVER_HANS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.spray.result import Analysis, Cluster, Counterfactual

MOST_TOLD = 3
"""Clusters that a verdict tells of; all are below it."""

ALARM, CALM, UNKNOWN = "Clever Hans", "none found", "not known"
"""What is said of some clusters in short."""
LOOKS = {ALARM: "fails", CALM: "passes", UNKNOWN: "unknown"}
"""How the style sheet shows it."""

_DOWN, _ACROSS = ("upper", "middle", "lower"), ("left", "centre", "right")
_ALONG = ("at the start", "in the middle", "at the end")


def short(clusters: Iterable[Cluster]) -> str:
    """Return whether one of them is a Clever Hans, as far as one knows."""
    found = list(clusters)
    if any(cluster.verdict == CLEVER_HANS for cluster in found):
        return ALARM
    return CALM if any(map(is_checked, found)) else UNKNOWN


def verdict(analysis: Analysis, name: Callable[[int], str]) -> str:
    """Return whether a Clever Hans was found, and by what one knows.

    Parameters
    ----------
    analysis
        Of an explainer's maps.
    name
        Returns what a class is called.
    """
    views = analysis.ranked
    checked = [(view, each) for view in views for each in view.clusters if is_checked(each)]
    if not views:
        return "No class has enough maps to be analysed."
    if analysis.clever_hans:
        return _alarm(analysis, name)
    if not checked:
        is_whole = all(len(view.clusters) < 2 for view in views)
        why = "No class falls into clusters" if is_whole else "No cluster was checked"
        if any(each.counterfactual is not None for view in views for each in view.clusters):
            why = (
                "Regions were erased, but every sample that could be asked belongs to the class, "
                "by the truth or by what the network says"
            )
        return f"{why}, so nothing was put on samples of other classes."
    view, most = max(checked, key=lambda pair: flip_rate(pair[1]))
    n_views = len({own.target for own, _ in checked})
    return (
        f"Of {count(len(checked))} clusters of {_several(n_views)} that were "
        f"checked, none carries other samples over by its region alone. The most is "
        f"{_flips(most)}, of {called(name(view.target))}."
    )


def _alarm(analysis: Analysis, name: Callable[[int], str]) -> str:
    found = analysis.clever_hans
    said = [_strategy(each, called(name(view.target))) for view, each in found[:MOST_TOLD]]
    more = len(found) - len(said)
    others = f" And {count(more)} more clusters are alike in this." if more else ""
    return f"{' '.join(said)}{others}"


def _strategy(cluster: Cluster, class_name: str) -> str:
    return (
        f"{percent(cluster.share)} of the maps of {class_name} (cluster {cluster.label}) "
        f"rest on a region {place(cluster)}. Put on samples of other "
        f"classes, this region alone makes the network call {_flips(cluster)} {class_name}."
    )


def _flips(cluster: Cluster) -> str:
    outcome = cluster.counterfactual
    if outcome is None:
        return percent(math.nan)
    return (
        f"{percent(outcome.flip_rate)} of {count(outcome.n_pasted)} "
        f"({_interval(outcome)}; control {percent(outcome.control_rate)})"
    )


def checks(cluster: Cluster, class_name: str) -> list[str]:
    """Return what happened when the region was erased, and when it was put elsewhere."""
    outcome = cluster.counterfactual
    if outcome is None:
        return ["Not checked."]
    said = []
    if outcome.n_inside:
        said.append(
            f"Erased in {count(outcome.n_inside)} of its samples, the probability of {class_name} "
            f"falls from {_fall(outcome.confidence_inside, outcome.erase_drop_inside)}, and "
            f"{percent(outcome.erase_lost_inside)} are no longer called {class_name}."
        )
    if outcome.n_outside:
        said.append(
            f"Erased in {count(outcome.n_outside)} others of the class it goes from "
            f"{_fall(outcome.confidence_outside, outcome.erase_drop_outside)}, and "
            f"{percent(outcome.erase_lost_outside)} are lost."
        )
    if outcome.n_pasted:
        said.append(
            f"Put on {count(outcome.n_pasted)} samples of other classes, "
            f"{percent(outcome.flip_rate)} become {class_name} ({_interval(outcome)}); the same "
            f"region of samples outside the cluster, as a control, turns "
            f"{percent(outcome.control_rate)} (at most {percent(outcome.control_high)})."
        )
    return said or ["Not checked: the network calls no sample by another class, or none by this."]


def is_checked(cluster: Cluster) -> bool:
    """Whether the region was put on samples of other classes."""
    return not math.isnan(flip_rate(cluster))


def flip_rate(cluster: Cluster) -> float:
    """Return the share of other samples that become the class; NaN if nobody asked."""
    outcome = cluster.counterfactual
    return math.nan if outcome is None else outcome.flip_rate


def place(cluster: Cluster) -> str:
    """Return where the hot region is, as one says it of a picture or a row of values."""
    if any(math.isnan(share) for share in cluster.location):
        return "that is nowhere"
    thirds = [min(2, int(3 * share)) for share in cluster.location]
    if len(thirds) == 1:
        return _ALONG[thirds[0]]
    if thirds == [1, 1]:
        return "in the middle"
    return f"at the {_DOWN[thirds[0]]} {_ACROSS[thirds[1]]}"


def called(class_name: str) -> str:
    """Return the name of a class in a sentence: numbers alone are no names."""
    return f"class {class_name}" if class_name.isdigit() else class_name


def _fall(before: float, drop: float) -> str:
    return f"{percent(before)} to {percent(before - drop)}"


def _interval(outcome: Counterfactual) -> str:
    return f"95 % interval {percent(outcome.flip_low)} to {percent(outcome.flip_high)}"


def _several(n_classes: int) -> str:
    return "1 class" if n_classes == 1 else f"{count(n_classes)} classes"
