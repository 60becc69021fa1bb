"""What is left of classes when their causal graphs are all that is left of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline import aggregate
from pipeline.report.formats import number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.store import Run

KINDS = {
    "full": "the whole network",
    "graph": "the graph alone",
    "random": "random graphs of its widths",
    "complement": "all but the graph",
}
"""What stays, as columns of `graph_faithfulness` begin, and in words."""


@dataclass(frozen=True)
class Faithfulness:
    """What a metric says of a scan's graphs."""

    metric: str
    n: int
    """Samples of classes with a graph."""
    rows: Sequence[tuple[str, str, str, str]]
    """What stays, and the means of logit, probability and accuracy."""


def of_scan(run: Run, scan: str) -> list[Faithfulness]:
    """Return what metrics say of the graphs of a scan, as far as they were evaluated.

    Parameters
    ----------
    run
        A run.
    scan
        Name of its entry.
    """
    found = []
    for metric in aggregate.judged(run):
        if metric.method != "graph_faithfulness" or scan not in metric.explainers:
            continue
        columns = run.scores(metric.name, scan)
        if columns:
            n = int(np.isfinite(columns["graph_logit"]).sum())
            found.append(Faithfulness(metric.name, n, _rows(columns)))
    return found


def _rows(columns: Mapping[str, NDArray[np.floating]]) -> list[tuple[str, str, str, str]]:
    return [
        (
            words,
            number(_mean(columns[f"{kind}_logit"])),
            percent(_mean(columns[f"{kind}_probability"])),
            percent(_mean(columns[f"{kind}_accuracy"])),
        )
        for kind, words in KINDS.items()
    ]


def _mean(values: NDArray[np.floating]) -> float:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")
