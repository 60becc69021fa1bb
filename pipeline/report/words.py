"""The words of samples, where their source knows what tokens stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report import naming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.store import Run

TOKEN = "token"
"""Dimension of maps that have a number for each word."""


def of_samples(run: Run, rows: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return the words of each sample that has any, by row of the manifest."""
    if not any(spec.dims[-1:] == (TOKEN,) for spec in run.plan.maps.values()):
        return {}
    source = naming.source_of(run)
    if source is None:
        return {}
    found = {row: source.tokens(run.manifest.slice(row, row + 1)[0]) for row in rows}
    return {row: words for row, words in found.items() if words is not None}
