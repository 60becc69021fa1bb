"""Gates are about scores that metrics have: their columns are looked up when a run is planned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from explainers import Network, Samples, Target, Trace
from explainers.registry import suggest
from pipeline.errors import XpipeError
from pipeline.gates.grammar import CLUSTERS
from pipeline.gates.names import place_of, refuse
from pipeline.metrics import Case

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.config import Gate, RunConfig
    from pipeline.metrics import Metric

SIDE = 16
"""Of the pictures that a metric is tried on."""
_TARGET = re.compile(r"\.\d+$")
"""End of the columns of further targets."""


def check_columns(config: RunConfig, metrics: Mapping[str, Metric]) -> None:
    """Refuse gates of columns that their metrics do not have.

    A metric says its headline and its curves. A gate of another column makes it score two random
    pictures with a tiny network, once; where that cannot be done (it explains again, or its
    parameters do not fit the pictures), the gate is checked when it is judged.

    Raises
    ------
    ConfigError
        If there are such; the message lists all of them.
    """
    refuse(
        config,
        lambda gate: _complaint(gate, metrics),
        fix="name a column with one number per sample",
    )


def _complaint(gate: Gate, metrics: Mapping[str, Metric]) -> str:
    about = place_of(gate, metrics)
    if about.metric == CLUSTERS:
        return ""
    column = _TARGET.sub("", about.column)
    metric = metrics[about.metric]
    areas = {curve.area: curve.column for curve in metric.curves((3, SIDE, SIDE))}
    if column in ("", metric.headline, *areas):
        return ""
    for area, curve in areas.items():
        if column == curve:
            return f"{column!r} of {about.metric!r} is a curve; the area under it is {area!r}"
    known = columns_of(metric)
    if not known or column in known:
        return ""
    return f"{about.metric!r} has no score {column!r}; {suggest(column, sorted(known))}"


def columns_of(metric: Metric) -> frozenset[str]:
    """Return the scalar columns of a metric, found out by trying; empty where it cannot be."""
    if metric.requires - {"network", "masks"}:
        return frozenset()
    generator = torch.Generator().manual_seed(0)
    inputs, relevance = torch.rand(2, 2, 3, SIDE, SIDE, generator=generator)
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    mask[:, : SIDE // 2] = True
    samples = Samples(torch.arange(2), torch.zeros(2, dtype=torch.int64))
    try:
        trace = None
        if "network" in metric.requires:
            trace = Trace(Network(_model(), inputs), inputs, samples=samples)
        case = metric.prepare(Case(trace, Target.parse(0), mask=mask))
        found = metric.score(case, relevance)
    except (ValueError, TypeError, LookupError, RuntimeError, ImportError, XpipeError):
        return frozenset()
    return frozenset(name for name, values in found.items() if values.ndim == 1)


def _model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 2, 3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(2 * (SIDE - 2) ** 2, 3),
        ).eval()
