"""A run with causal graphs as the pipeline writes them, of effects that are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from explainers.causal import results as forms
from explainers.causal.documents import documents
from explainers.causal.structure import structure_of
from pipeline import open_run
from pipeline.sinks import graphs, results
from tests.explainers.causal_graphs import FACTS, graph_result, network
from tests.pipeline import stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from explainers.causal.structure import Structure
    from pipeline.store import Run

SCAN = "graph"


UNREAD = {
    *("te_low", "te_high", "relative", "divergence", "statistic", "p", "q", "frequency"),
    *("held_out_p", "n", "n_held_out", "edge_cause", "edge_effect", "edge_weight"),
}
"""What nobody reads of all classes at once: writing it would take most of the time."""


def make_run(
    folder: Path, structure: Structure, result: Mapping[Any, Any], facts: Mapping[str, Any] = FACTS
) -> Run:
    """Return a run of which nothing else than these graphs is done."""
    stored.make_run(str(folder), done=())
    (folder / "run.yaml").write_text(stored.RUN_FILE)
    results.write_parts(folder, SCAN, [forms.stored(_read(result))], axes=forms.axes)
    graphs.write(folder, SCAN, documents(result, structure, facts))
    return open_run(folder)


def tiny_run(folder: Path, **changes: Any) -> Run:
    """Return a run with the graphs of two classes of `network`."""
    structure = structure_of(network())
    return make_run(folder, structure, graph_result(structure, **changes))


def _read(result: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a result without what is unread."""
    return {
        key: _read(value) if isinstance(value, dict) else value
        for key, value in result.items()
        if key not in UNREAD
    }
