"""Gates are about scores that a run will have: known as soon as it is planned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from explainers.registry import suggest
from pipeline.entries import build_metrics, graph_scans
from pipeline.gates import grammar
from pipeline.gates.names import place_of, refuse
from pipeline.plan import split_name
from pipeline.scorable import GRAPH, unscored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.config import Gate, RunConfig
    from pipeline.metrics import Metric
    from pipeline.plan import Plan

_TARGET = re.compile(r"\.(\d+)$")
_CLASS = re.compile(r"class:(\d+)")


def check_places(config: RunConfig, plan: Plan) -> None:
    """Refuse gates that can never hold: of maps, targets or classes that the run does not have.

    Raises
    ------
    ConfigError
        If there are such; the message lists all of them.
    """
    metrics = build_metrics(config)
    refuse(
        config,
        lambda gate: _complaint(gate, config, plan, metrics),
        fix="name a score that the run will have",
    )


def _complaint(gate: Gate, config: RunConfig, plan: Plan, metrics: Mapping[str, Metric]) -> str:
    about = place_of(gate, metrics)
    if about.metric == grammar.CLUSTERS:
        return ""
    target, group = _TARGET.search(about.column), _CLASS.fullmatch(about.group)
    if target and int(target[1]) >= len(plan.targets):
        n_targets = len(plan.targets)
        number = f"{n_targets} target{'s' if n_targets > 1 else ''}"
        return f"{about.column!r} is of target {target[1]}, counted from 0; the run has {number}"
    if group and int(group[1]) >= plan.n_classes:
        return f"there is no {about.group!r}: the network has {plan.n_classes} outputs"
    return "" if about.explainer == grammar.EVERY else _unscored(about, config, plan, metrics)


def _unscored(
    about: grammar.Place, config: RunConfig, plan: Plan, metrics: Mapping[str, Metric]
) -> str:
    """Return why a metric will not score the maps of an explainer; empty if it will."""
    metric = metrics[about.metric]
    missing = unscored(metric, plan.maps, plan.form)
    names = graph_scans(config) if GRAPH in metric.requires else tuple(plan.maps)
    only = config.metrics[about.metric].get("explainers")
    scored = [
        name
        for name in names
        if name not in missing and (only is None or split_name(name)[0] in only)
    ]
    if about.explainer in scored:
        return ""
    said = f"{about.metric!r} does not score {about.explainer!r}"
    if about.explainer in missing:
        return f"{said}: {missing[about.explainer]}"
    if only is not None and split_name(about.explainer)[0] not in only:
        return f"{said}, which its `explainers` leave out"
    return f"{said}; {suggest(about.explainer, scored)}" if scored else said
