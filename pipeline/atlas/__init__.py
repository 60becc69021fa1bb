"""Pages to browse concepts: an index, and a page a layer; files that need no server."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.atlas import views
from pipeline.atlas.building import Atlas, Place, results_digest
from pipeline.errors import StoreError
from pipeline.store import open_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.store import Run

__all__ = ["build", "is_current", "is_wanted"]

N_REFERENCES = 8
"""Samples shown of each list if there is no saying."""


def build(
    path: str | PurePath | Run,
    out: str | PurePath | None = None,
    *,
    n_references: int = N_REFERENCES,
    kinds: Mapping[str, str] | None = None,
) -> str:
    """Write the atlas of a run and return where its index is.

    A layer at a time is in memory; each sample that is shown is read once.

    Parameters
    ----------
    path
        The run's folder, or the opened run.
    out
        The folder to write; ``atlas`` in the run's folder if not given. An atlas that is there
        is replaced.
    n_references
        Samples shown of each list, at most.
    kinds
        Operators of layers, by name; those that the atlas before it knew if not given.

    Raises
    ------
    StoreError
        If the run has no lists, or the folder holds something else.
    """
    run = open_run(path) if isinstance(path, (str, PurePath)) else path
    place = Place(paths.Folder(run.folder.at_url(paths.ATLAS) if out is None else out))
    known = place.kinds() if kinds is None else kinds
    found = views.views_of(run, known)
    if not found:
        raise StoreError(
            f"{run.path} has no lists of samples to show",
            fix="add a scan to its run file: `relevance_maximization` or "
            "`activation_maximization`, with `layers` and `references`",
            page="not-in-run",
        )
    Atlas(run, found, place, max(1, n_references), known).write()
    return place.folder.at_url("index.html")


def is_wanted(run: Run) -> bool:
    """Whether a run asked for what an atlas shows: heat maps of reference samples."""
    return any(view.has_references(layer) for view in views.views_of(run) for layer in view.layers)


def is_current(run: Run) -> bool:
    """Whether the atlas in the run's folder shows the results that the run has now."""
    known = Place(paths.Folder(run.folder.at_url(paths.ATLAS))).summary().get("results")
    return known == results_digest(run)
