"""How scores have changed: paired by sample, overall and by class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from pipeline import comparisons, paths
from pipeline.compare.comparison import ScoreDrift
from pipeline.statistics import holm, paired
from pipeline.store import EVALUATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.compare.comparison import Change
    from pipeline.compare.pairing import Pairing
    from pipeline.metrics import Direction
    from pipeline.store import Run

ALL = "all"


class Scores:
    """Scores of two runs, read metric by metric.

    Parameters
    ----------
    previous, current
        The runs.
    pairing
        How their samples belong together.
    classes
        Class of each sample of the current run; -1 where not known.
    """

    def __init__(
        self, previous: Run, current: Run, pairing: Pairing, classes: NDArray[np.int64]
    ) -> None:
        self._previous = previous
        self._current = current
        self._pairing = pairing
        self._classes = classes

    def explainers(self, metric: Judged) -> tuple[str, ...]:
        """Return whose maps both runs have scored."""
        before = next(old for old, new in self._pairing.metrics if new.name == metric.name)
        return tuple(name for name in metric.explainers if name in before.explainers)

    def columns(
        self, metric: Judged, explainer: str
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return the scalar columns that both have, before and after, by row of the current run."""
        before = self._previous.scores(metric.name, explainer)
        after = self._current.scores(metric.name, explainer)
        rows = self._pairing.before
        return {
            name: (_numbers(before[name])[rows], _numbers(values))
            for name, values in after.items()
            if name in before and values.ndim == before[name].ndim == 1
        }

    def drift(self, metric: Judged) -> list[ScoreDrift]:
        """Return the drift of every scalar column, and by class that of the headline."""
        found: list[ScoreDrift] = []
        for explainer in self.explainers(metric):
            counted = self.scored(metric, explainer)
            for column, (before, after) in self.columns(metric, explainer).items():
                is_headline = column == metric.headline
                groups = self.groups(by_class=is_headline)
                of_column = _Column(metric, explainer, column, self._direction(metric, column))
                found += of_column.drift(before, after, groups, counted)
        return _adjusted(found)

    def groups(self, *, by_class: bool) -> dict[str, NDArray[np.bool_]]:
        """Return which samples belong to which group."""
        groups = {ALL: np.ones(len(self._classes), bool)}
        if by_class:
            known = np.unique(self._classes[self._classes >= 0])
            groups |= {f"class:{index}": self._classes == index for index in known}
        return groups

    def scored(self, metric: Judged, explainer: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which samples are in scored shards, before and after."""
        before = scored_rows(self._previous, metric.name, explainer)[self._pairing.before]
        return before, scored_rows(self._current, metric.name, explainer)

    def _direction(self, metric: Judged, column: str) -> str:
        return metric.direction_of(column, self._current.plan.input_shape)


class _Column:
    """One score of one explainer."""

    def __init__(self, metric: Judged, explainer: str, column: str, direction: str) -> None:
        self.facts: dict[str, Any] = {
            "metric": metric.name,
            "explainer": explainer,
            "column": column,
            "direction": direction,
        }

    def drift(
        self,
        before: NDArray[np.float64],
        after: NDArray[np.float64],
        groups: dict[str, NDArray[np.bool_]],
        scored: tuple[NDArray[np.bool_], ...],
    ) -> Iterator[ScoreDrift]:
        known = ~np.isnan(before), ~np.isnan(after)
        for group, members in groups.items():
            first, second = before[members], after[members]
            has_test = group == ALL
            moments = _tested(first, second) if has_test else _moments(first, second)
            n = int(moments["n"])
            values: dict[str, Any] = {
                key: float(value) for key, value in moments.items() if key != "n"
            }
            yield ScoreDrift(
                **self.facts,
                group=group,
                n=n,
                n_before=int((known[0] & members).sum()),
                n_after=int((known[1] & members).sum()),
                n_rows=int(members.sum()),
                n_scored_before=int((scored[0] & members).sum()),
                n_scored_after=int((scored[1] & members).sum()),
                p_holm=float("nan"),
                verdict="unknown",
                **values,
            )


def n_scored(run: Run, metric: Judged) -> dict[str, int]:
    """Return explainer to the samples in shards that were scored, defined or not."""
    shards = run.plan.shards
    entries = run.entries(f"{EVALUATE}{metric.name}").items()
    return {
        name: sum(
            len(shards[index])
            for index, entry in entries
            if paths.scores_path(metric.name, name, index) in entry.objects
        )
        for name in metric.explainers
    }


def scored_rows(run: Run, metric: str, explainer: str) -> NDArray[np.bool_]:
    """Return which samples are in shards that are scored, whether their scores are defined."""
    done = np.zeros(run.plan.n_samples, bool)
    for index, entry in run.entries(f"{EVALUATE}{metric}").items():
        if paths.scores_path(metric, explainer, index) in entry.objects:
            done[run.plan.shards[index].rows] = True
    return done


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return scores as numbers: integers have -1 where there is none."""
    if values.dtype.kind == "i":
        return np.where(values == -1, np.nan, values.astype(np.float64))
    return values.astype(np.float64)


def _tested(before: NDArray[np.float64], after: NDArray[np.float64]) -> dict[str, float]:
    found = paired(after, before)
    return _moments(before, after) | {
        "p": found.p,
        "delta": found.delta,
        "dominance": found.dominance,
    }


def _moments(before: NDArray[np.float64], after: NDArray[np.float64]) -> dict[str, float]:
    both = np.isfinite(before) & np.isfinite(after)
    first, second = before[both], after[both]
    n = int(both.sum())
    change = second - first
    low, high = interval(change)
    nan = float("nan")
    return {
        "n": n,
        "before": first.mean() if n else nan,
        "after": second.mean() if n else nan,
        "change": change.mean() if n else nan,
        "low": low,
        "high": high,
        "p": nan,
        "delta": nan,
        "dominance": nan,
    }


def interval(change: NDArray[np.float64], alpha: float = 0.05) -> tuple[float, float]:
    """Return the 1 - alpha interval of the mean of changes (Student's t), NaN of fewer than two."""
    n = len(change)
    if n < 2:
        return float("nan"), float("nan")
    half = float(special.stdtrit(n - 1, 1 - alpha / 2) * change.std(ddof=1) / np.sqrt(n))
    return float(change.mean()) - half, float(change.mean()) + half


def _verdict(row: ScoreDrift, p: float) -> Change:
    """Return what became of a score by the rule that compares explainers."""
    if row.n < 2:
        return "unknown"
    if row.low == row.high == 0:
        return "same"
    end: Direction = "lower" if row.direction == "lower" else "higher"
    verdict = comparisons.decided(p, row.change, row.dominance, end)
    if verdict == "undecided":
        return "unclear"
    return verdict if row.direction else "changed"


def _adjusted(rows: list[ScoreDrift]) -> list[ScoreDrift]:
    """Return the rows with p adjusted over the explainers of each column, and what it says."""
    tested: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.group == ALL and row.p == row.p:
            tested.setdefault(row.column, []).append(place)
    found = list(rows)
    for places in tested.values():
        adjusted = holm([rows[place].p for place in places])
        for place, p in zip(places, adjusted, strict=True):
            verdict = _verdict(rows[place], float(p))
            found[place] = replace(rows[place], p_holm=float(p), verdict=verdict)
    return found
