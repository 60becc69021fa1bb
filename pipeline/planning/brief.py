"""Attributions in a form that takes few passes, to be tried before a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from explainers import explaining

if TYPE_CHECKING:
    from explainers import Attribution, Cost, Network

MOST_PASSES = 8.0
"""Passes per sample of what is tried: with two rows, less than finding the batch size takes. Of
forward passes alone, which take less than half of the time, twice as many."""


def brief(attribution: Attribution, network: Network) -> Attribution | None:
    """Return an attribution, or one that is like it but takes few passes; None if none is."""
    if _is_brief(explaining.cost(attribution, network)):
        return attribution
    for change in attribution.briefer(explaining.seen_by(attribution, network)):
        try:
            tried = dataclasses.replace(attribution, **change)
            explaining.check(tried, network)
        except (LookupError, NotImplementedError, TypeError, ValueError):
            continue
        if _is_brief(explaining.cost(tried, network)):
            return tried
    return None


def _is_brief(cost: Cost) -> bool:
    """Whether a cost is known, and that of a trial."""
    if not cost.backward and not cost.steps:
        return cost.forward <= 2 * MOST_PASSES
    return cost.forward + cost.backward + cost.steps <= MOST_PASSES
