"""Whether metrics order explainers alike, and how explainers rank over classes or metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline import aggregate
from pipeline.comparisons import headline
from pipeline.statistics import Friedman, friedman, kendall_per_sample
from pipeline.statistics.summaries import summarise, summarise_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.aggregate import Groups
    from pipeline.store import Run

MIN_EXPLAINERS = 3
"""Two explainers have one order or the other: nothing to agree on."""
MIN_BLOCKS = 5
"""With fewer, Friedman's test and Nemenyi's difference say nothing."""
METRICS = "metrics"
CLASSES = "classes"

Scores = dict[str, dict[str, "NDArray[np.float64]"]]
"""Metric to explainer to the headline per sample, turned so that less is better."""


@dataclass(frozen=True)
class Disagreement:
    """Kendall's tau-b between the orders that metrics give explainers."""

    metrics: tuple[str, ...]
    explainers: tuple[str, ...]
    """Scored by at least two of the metrics."""
    per_sample: NDArray[np.float64]
    """``(metrics, metrics)``: the mean over samples of tau within a sample; NaN where fewer than
    three explainers are scored by both."""
    of_means: NDArray[np.float64]
    """The same of the means over all samples."""


@dataclass(frozen=True)
class Ranking:
    """How explainers rank over blocks."""

    metric: str
    """Empty if metrics are the blocks."""
    blocks: str
    """``classes`` or ``metrics``."""
    explainers: tuple[str, ...]
    """By mean rank, the best first."""
    test: Friedman
    """Its mean ranks are in the order of `explainers`."""
    left_out: tuple[str, ...] = ()
    """Metrics that are no blocks: they score too few of the explainers."""

    @property
    def is_told_apart(self) -> bool:
        """Whether Friedman's test finds any difference; without, no two are to be compared."""
        return self.test.p < 0.05

    def bars(self) -> tuple[tuple[int, int], ...]:
        """Return first and last place of each group whose ranks are within the difference.

        Groups of one, and those within others, are left out.
        """
        found: list[tuple[int, int]] = []
        ranks = self.test.mean_ranks
        for first, rank in enumerate(ranks):
            reach = [p for p, other in enumerate(ranks) if other - rank < self._reach()]
            if reach[-1] > first and (not found or reach[-1] > found[-1][1]):
                found.append((first, reach[-1]))
        return tuple(found)

    def _reach(self) -> float:
        return self.test.critical_difference if self.is_told_apart else float("inf")


def scores(run: Run) -> Scores:
    """Return the headlines of all metrics that score samples."""
    found = {}
    for metric in aggregate.judged(run):
        sign = 1 if metric.direction == "lower" else -1
        columns = {name: sign * values for name, values in headline(run, metric).items()}
        known = {name: each for name, each in columns.items() if not np.isnan(each).all()}
        if known:
            found[metric.name] = known
    return found


def disagreement(found: Scores) -> Disagreement | None:
    """Return how far metrics agree; None without two metrics of three explainers in common."""
    count: dict[str, int] = {}
    for columns in found.values():
        for name in columns:
            count[name] = count.get(name, 0) + 1
    names = tuple(name for name, n in count.items() if n > 1)
    metrics = tuple(
        each for each, by in found.items() if len(set(by) & set(names)) >= MIN_EXPLAINERS
    )
    if len(metrics) < 2 or len(names) < MIN_EXPLAINERS:
        return None
    n = len(next(iter(found[metrics[0]].values())))
    values = np.full((len(metrics), len(names), n), np.nan)
    for row, metric in enumerate(metrics):
        for place, name in enumerate(names):
            if name in found[metric]:
                values[row, place] = found[metric][name]
    is_scored = (~np.isnan(values).all(axis=2)).astype(int)
    is_enough = is_scored @ is_scored.T >= MIN_EXPLAINERS
    means = summarise(values.reshape(-1, n).T).mean.reshape(len(metrics), len(names), 1)
    return Disagreement(
        metrics,
        names,
        np.where(is_enough, kendall_per_sample(values), np.nan),
        np.where(is_enough, kendall_per_sample(means), np.nan),
    )


def rankings(run: Run, found: Scores) -> tuple[Ranking, ...]:
    """Return how explainers rank over metrics, and over classes under each metric.

    Only where there are `MIN_BLOCKS` blocks of which every explainer has a mean.
    """
    groups = aggregate.groups_of(run)
    over_metrics = _over_metrics(found)
    each = [_over_classes(name, columns, groups) for name, columns in found.items()]
    return tuple(ranking for ranking in (over_metrics, *each) if ranking is not None)


def _over_metrics(found: Scores) -> Ranking | None:
    """Return the ranking by the metrics whose common explainers make the largest table.

    Metrics go by how many explainers they score, so that one that scores a few, or none of the
    others', is left out rather than everything that it has no score for.
    """
    tables = []
    for least in sorted({len(columns) for columns in found.values()}, reverse=True):
        kept = {name: columns for name, columns in found.items() if len(columns) >= least}
        first = next(iter(kept.values()))
        shared = [name for name in first if all(name in columns for columns in kept.values())]
        if len(shared) >= MIN_EXPLAINERS and len(kept) >= MIN_BLOCKS:
            tables.append((kept, shared))
    if not tables:
        return None
    kept, shared = max(tables, key=lambda table: len(table[0]) * len(table[1]))
    rows = [[float(np.nanmean(columns[name])) for name in shared] for columns in kept.values()]
    ranking = _ranking("", METRICS, shared, np.array(rows))
    left_out = tuple(name for name in found if name not in kept)
    return None if ranking is None else replace(ranking, left_out=left_out)


def _over_classes(
    metric: str, columns: Mapping[str, NDArray[np.float64]], groups: Groups
) -> Ranking | None:
    if len(groups.starts) < MIN_BLOCKS:
        return None
    values = np.stack([each[groups.by_class] for each in columns.values()], axis=1)
    means = summarise_groups(values, groups.starts).mean  # (classes, explainers)
    return _ranking(metric, CLASSES, list(columns), means[~np.isnan(means).any(axis=1)])


def _ranking(
    metric: str, blocks: str, names: list[str], rows: NDArray[np.float64]
) -> Ranking | None:
    if len(names) < MIN_EXPLAINERS or len(rows) < MIN_BLOCKS:
        return None
    order = np.argsort(friedman(rows).mean_ranks, kind="stable")
    return Ranking(metric, blocks, tuple(names[place] for place in order), friedman(rows[:, order]))
