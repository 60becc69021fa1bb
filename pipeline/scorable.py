"""Which of a run's maps, or graphs, a metric can score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.concepts.conditions import CONDITION
from pipeline.entries import graph_scans
from pipeline.inputs import is_one_picture
from pipeline.plan import EXPLAIN, split_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from explainers import Target
    from pipeline.inputs import Form
    from pipeline.metrics import Metric
    from pipeline.plan import MapSpec
    from pipeline.shards import Shard
    from pipeline.store import Run

OF_PLACES = frozenset({"network", "masks"})
"""What a metric has to have that looks for a map's values at places of the input."""

GRAPH = "graph"
"""What a metric has to have that scores scans by the graphs they found, and no maps."""


def scored(metric: Metric, run: Run, only: Collection[str] | None = None) -> tuple[str, ...]:
    """Return whose maps a metric scores, or which scans, as far as their results are there.

    Parameters
    ----------
    metric
        The metric.
    run
        Whose maps and scans.
    only
        Entries of explainers that are asked for; all if None.
    """
    if GRAPH in metric.requires:
        names = tuple(name for name in graph_scans(run.config) if name in run.scans)
    else:
        missing = unscored(metric, run.plan.maps, run.plan.form)
        names = tuple(name for name in run.plan.maps if name not in missing)
    return tuple(name for name in names if only is None or split_name(name)[0] in only)


def unscored(metric: Metric, maps: Mapping[str, MapSpec], form: Form) -> dict[str, str]:
    """Return the maps that a metric cannot score, each with the reason.

    Metrics that read maps alone score all of them, but for several maps of a sample in one; those
    that score graphs are not spoken of.

    Parameters
    ----------
    metric
        The metric.
    maps
        Name to the form of the map.
    form
        Of a sample.
    """
    if GRAPH in metric.requires:
        return {}
    missing = {
        name: "it has a map for each condition; one entry for each is scored"
        for name, spec in maps.items()
        if CONDITION in spec.dims
    }
    if not metric.requires & OF_PLACES:
        return missing
    if not is_one_picture(form):
        return dict.fromkeys(maps, "the inputs are not one tensor of numbers")
    of_layers = {
        name: f"its maps are of the layer {spec.layer}" for name, spec in maps.items() if spec.layer
    }
    return of_layers | missing


def in_words(name: str, missing: Mapping[str, str]) -> str:
    """Return which maps the metric of this name does not score, and why."""
    by_reason: dict[str, list[str]] = {}
    for of_map, reason in missing.items():
        by_reason.setdefault(reason, []).append(of_map)
    said = [f"{', '.join(maps)} ({reason})" for reason, maps in by_reason.items()]
    return f"{name} does not score {' nor '.join(said)}" if said else ""


def explained(run: Run) -> tuple[Shard, ...]:
    """Return the shards in which every explainer's maps are committed."""
    passes = {EXPLAIN, *(run.pass_of(name) for name in run.maps)}
    done = [set(run.entries(pass_name)) for pass_name in passes]
    return tuple(shard for shard in run.plan.shards if all(shard.index in each for each in done))


def misfit(metric: Metric, targets: Iterable[Target]) -> str:
    """Return why a metric cannot measure what is explained; empty if it can."""
    given = tuple(targets)
    layers = [target.layer for target in given if target.layer is not None]
    if GRAPH in metric.requires and (layers or any(each.kind == "weights" for each in given)):
        what = f"a unit of the layer {layers[0]!r}" if layers else "a weighting of the outputs"
        return f"it scores graphs of classes, and {what} has none"
    if metric.space != "probability" or not layers:
        return ""
    return f"it measures probabilities, and a unit of the layer {layers[0]!r} has none"
