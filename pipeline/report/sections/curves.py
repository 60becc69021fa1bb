"""Scores that are curves: their mean per explainer, with a band, beside the control's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import aggregate
from pipeline.report import checks, curve_plots

if TYPE_CHECKING:
    from pipeline.store import Run

title = "Curves"
order = 30


def render(run: Run) -> str | None:
    """Return a chart per curve; None if no metric has one.

    Those of randomisation are with the other checks of sanity.
    """
    metrics = [each for each in aggregate.judged(run) if checks.family(each) not in checks.FAMILIES]
    found = curve_plots.plots(run, metrics)
    return curve_plots.render(found) if found else None
