"""How maps have changed: sample by sample, streamed, summed up overall and by class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate
from pipeline.compare import agreement
from pipeline.compare.comparison import ClassProfile, MapDrift, Summed, Worst
from pipeline.compare.score_drift import interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from numpy.typing import NDArray

    from pipeline.plan import MapSpec
    from pipeline.store import Run

VALUES = 1 << 21
"""Of maps that are read at a time: a handful of arrays of so many float64 stay below 200 MB."""
PROFILE = 28
"""Longest side of the mean maps that are kept of each class."""
N_WORST = 20
"""Samples that are named of each explainer."""
MEASURES = ("rank_correlation", "ndcg", "moved")
CHANNEL, TARGET, LENGTH = "channel", "target", "length"


def misfit(before: MapSpec, after: MapSpec) -> str:
    """Return why maps of two runs cannot be laid on each other; empty if they can."""
    first, second = _features(before), _features(after)
    if first == second:
        return ""
    return f"maps are {_in_words(first)} there and {_in_words(second)} here"


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of each sample of the current run, as columns."""

    sample_ids: list[str]
    before: NDArray[np.int64]
    """Row in the previous run."""
    labels: NDArray[np.int64]
    prediction_before: NDArray[np.int64]
    prediction_after: NDArray[np.int64]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Labels; where there are none, what is predicted now."""
        return self.labels if (self.labels >= 0).any() else self.prediction_after


def rows_of(previous: Run, current: Run, before: NDArray[np.int64]) -> Rows:
    """Return what both runs know of the samples."""
    return Rows(
        sample_ids=current.manifest.sample_ids,
        before=before,
        labels=current.manifest.labels,
        prediction_before=_predictions(previous)[before],
        prediction_after=_predictions(current),
    )


def drift(name: str, previous: Run, current: Run, rows: Rows) -> MapDrift:
    """Return how the maps of one explainer have changed; of several targets, of the first.

    Memory is bounded by `VALUES` and by the mean maps of classes, not by the number of samples.
    """
    n = len(rows.sample_ids)
    found = _Found(n, rows.classes)
    before, after = previous.maps[name], current.maps[name]
    size = max(1, int(np.prod(after.shape[1:])))
    step = max(1, VALUES // size)
    for shard in current.plan.shards:
        for start in range(shard.start, shard.stop, step):
            here = slice(start, min(start + step, shard.stop))
            found.add(here, _read(before, rows.before[here]), _read(after, here))
    return found.drift(name, rows)


@dataclass
class _Found:
    """What is kept of the maps that were compared so far."""

    n: int
    classes: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    profiles: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Sums of pooled shares of each class, ``(2, features)``: before and after."""

    def __post_init__(self) -> None:
        self.columns = {name: np.full(self.n, np.nan) for name in (*MEASURES, "identical")}

    def add(self, here: slice, before: _Maps, after: _Maps) -> None:
        valid = before.valid & after.valid
        pair = before.values, after.values, valid
        self.columns["rank_correlation"][here] = agreement.rank_correlation(*pair)
        self.columns["ndcg"][here] = agreement.ndcg(*pair)
        self.columns["moved"][here] = agreement.moved(*pair)
        same = ((before.values == after.values) | ~valid).all(axis=1)
        self.columns["identical"][here] = same
        pooled = [
            _pooled(agreement.shares(each.values, valid).reshape(-1, *each.shape))
            for each in (before, after)
        ]
        both = np.stack(pooled, axis=1)  # (samples, 2, features)
        known = np.isfinite(both).all(axis=(1, 2))
        labels = self.classes[here]
        for label in np.unique(labels[known & (labels >= 0)]).tolist():
            members = both[known & (labels == label)].sum(axis=0)
            self.profiles[label] = self.profiles.get(label, 0.0) + members

    def drift(self, name: str, rows: Rows) -> MapDrift:
        correlation = self.columns["rank_correlation"]
        known = np.isfinite(correlation)
        is_same = rows.prediction_before == rows.prediction_after
        order = np.argsort(np.where(known, correlation, np.inf), kind="stable")
        worst = [k for k in order[:N_WORST].tolist() if known[k] and correlation[k] < 1]
        return MapDrift(
            explainer=name,
            n=int(known.sum()),
            n_identical=int((known & (self.columns["identical"] == 1)).sum()),
            **{measure: summed(self.columns[measure]) for measure in MEASURES},
            same_prediction=summed(correlation[is_same]),
            classes=tuple(self._classes()),
            worst=tuple(self._worst(rows, k) for k in worst),
        )

    def _classes(self) -> list[ClassProfile]:
        found = []
        for label in np.unique(self.classes[self.classes >= 0]).tolist():
            members = self.classes == label
            means = {name: summed(self.columns[name][members]) for name in MEASURES}
            total = self.profiles.get(label)
            found.append(
                ClassProfile(
                    label=label,
                    n=means["rank_correlation"].n,
                    **{name: each.mean for name, each in means.items()},
                    profile_moved=float("nan") if total is None else _profile_moved(total),
                )
            )
        # NaN is last: nothing is known to have changed
        return sorted(found, key=lambda each: np.nan_to_num(each.rank_correlation, nan=9.0))

    def _worst(self, rows: Rows, k: int) -> Worst:
        return Worst(
            sample_id=rows.sample_ids[k],
            row_before=int(rows.before[k]),
            row_after=k,
            label=int(rows.labels[k]),
            prediction_before=int(rows.prediction_before[k]),
            prediction_after=int(rows.prediction_after[k]),
            **{name: float(self.columns[name][k]) for name in MEASURES},
        )


def summed(values: NDArray[np.float64]) -> Summed:
    """Return mean, interval, median and least of what is defined."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Summed(0, *(float("nan"),) * 5)
    low, high = interval(known)
    return Summed(
        n=len(known),
        mean=float(known.mean()),
        low=low,
        high=high,
        median=float(np.median(known)),
        least=float(known.min()),
    )


@dataclass(frozen=True, eq=False)
class _Maps:
    values: NDArray[np.float64]
    """``(samples, features)``."""
    valid: NDArray[np.bool_]
    shape: tuple[int, ...]
    """Of the features."""


def _read(stored: xr.DataArray, rows: Any) -> _Maps:
    """Return maps of some samples: of pictures, relevance summed over channels."""
    picked = stored.isel(sample=rows)
    if TARGET in picked.dims:
        picked = picked.isel(target=0)
    values = np.asarray(picked.values, np.float64)
    dims = [str(dim) for dim in picked.dims]
    if _is_picture(dims):
        values = values.sum(axis=dims.index(CHANNEL))
    shape = values.shape[1:]
    values = values.reshape(len(values), -1)
    valid = np.ones(values.shape, bool)
    if LENGTH in picked.coords and len(shape) == 1:
        # behind the last token of a sample is nothing
        lengths = np.asarray(picked.coords[LENGTH].values)
        valid = np.arange(values.shape[1]) < lengths[:, None]
    return _Maps(values, valid, shape)


def _features(spec: MapSpec) -> dict[str, int]:
    sizes = dict(zip(spec.dims, spec.shape, strict=True))
    if _is_picture([*sizes]):
        sizes.pop(CHANNEL)
    return sizes


def _is_picture(dims: list[str]) -> bool:
    return {CHANNEL, "height", "width"} <= set(dims)


def _in_words(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "single numbers"


def _pooled(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shares of relevance by region, ``(samples, regions)``: at most 28 along a side."""
    for axis in range(1, shares.ndim):
        size = shares.shape[axis]
        starts = np.unique(np.arange(min(size, PROFILE)) * size // min(size, PROFILE))
        shares = np.add.reduceat(shares, starts, axis=axis)
    return shares.reshape(len(shares), -1)


def _profile_moved(total: NDArray[np.float64]) -> float:
    """Return the total variation between a class's mean maps."""
    mean = total / total.sum(axis=1, keepdims=True)
    return float(np.abs(mean[0] - mean[1]).sum() / 2)


def _predictions(run: Run) -> NDArray[np.int64]:
    known = aggregate.facts(run)
    found = np.full(run.plan.n_samples, -1, np.int64)
    found[np.asarray(known["index"], np.int64)] = known["prediction"]
    return found
