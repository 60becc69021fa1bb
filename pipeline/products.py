"""What comes out of one shard of a pass: collected batch by batch, written as a whole."""

from __future__ import annotations

from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline import lengths
from pipeline.acceleration.transfer import Arrivals
from pipeline.plan import split_name, suffix
from pipeline.sinks import samples, states, tables
from pipeline.sinks.maps import COORDINATES, LENGTH, Layout, is_relevance, relevance_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray
    from torch import Tensor

    from explainers import State
    from pipeline.data import Record
    from pipeline.plan import Plan
    from pipeline.shards import Shard
    from pipeline.sinks.maps import MapSink


@dataclass
class Products:
    """Arrays over the shard's samples, rows of tables, and states of scans."""

    shard: Shard
    """Which samples."""
    arrays: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    """Explainer and array to values, one row per sample; explainer "" for coordinates."""
    facts: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Columns, one row per sample."""
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Table to rows."""
    states: dict[tuple[str, str], State] = field(default_factory=dict)
    """Scan and round to state."""
    axes: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Explainer and array to the names of its dimensions after ``sample`` and ``target``, where the
    method says them."""
    records: set[tuple[str, str]] = field(default_factory=set)
    """Scan and array of those `arrays` that scans keep of each sample."""
    failures: dict[int, str] = field(default_factory=dict)
    """Position within the shard to reason."""
    extents: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    """Explainer and array to how far each row of it goes along each axis, ``(rows, axes)``; of maps
    of samples that differ in length. What lies beyond is NaN, or -1 for integers."""
    not_finite: dict[str, int] = field(default_factory=dict)
    """Explainer to its number of maps that are not finite; known once everything is written."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    """Values that are still on their way from a GPU."""

    @classmethod
    def empty(
        cls, shard: Shard, plan: Plan, attributions: Sequence[str], *, is_first: bool
    ) -> Self:
        """Return products in which every sample is missing.

        Parameters
        ----------
        shard
            Which samples.
        plan
            Form of the maps.
        attributions
            Explainers that make maps in this pass.
        is_first
            Whether this is the first pass, which writes coordinates.
        """
        products = cls(shard)
        for path, layout in layouts(plan, attributions).items():
            name, _, array = path.partition("/")
            shape = (len(shard), *layout.shape)
            # in float32, whatever is stored: sinks convert, and scale before they do
            products.arrays[name, array] = np.full(shape, np.nan, np.float32)
        if is_first:
            index = np.arange(shard.start, shard.stop, dtype=np.int64)
            products.arrays["", "sample"] = index
            for name, layout in coordinates(plan).items():
                if name != "sample":
                    missing = np.full((len(shard), *layout.shape), -1, np.int64)
                    products.arrays["", name] = missing
            products.facts["prediction"] = np.full(len(shard), -1, np.int64)
            products.facts["logit"] = np.full(len(shard), np.nan)
        return products

    def put_array(
        self,
        name: str,
        array: str,
        rows: Sequence[int],
        values: Tensor,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        """Enter rows of an array; what is never entered is NaN, or -1 for integers.

        `shape` is that of a row of the array, where rows that differ in length go less far.
        """
        self._put(self.arrays, (name, array), rows, values, shape)
        if shape is not None:
            n_axes = values.ndim - 1
            extents = self.extents.setdefault(
                (name, array), np.zeros((len(self.shard), n_axes), np.int64)
            )
            extents[list(rows)] = values.shape[1:]

    def put_record(self, scan: str, array: str, rows: Sequence[int], values: Tensor) -> None:
        """Enter rows of what a scan keeps of each sample; ``<layer>/<array>`` by layer."""
        self.records.add((scan, array))
        self.put_array(scan, array, rows, values)

    def put_fact(self, column: str, rows: Sequence[int], values: Tensor) -> None:
        """Enter rows of a column."""
        self._put(self.facts, column, rows, values)

    def _put(
        self,
        place: dict[Any, Any],
        key: Any,
        rows: Sequence[int],
        values: Tensor,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.arrivals.receive(values, partial(self._place, place, key, list(rows), shape))

    def _place(
        self,
        place: dict[Any, Any],
        key: Any,
        rows: list[int],
        shape: tuple[int, ...] | None,
        found: NDArray[Any],
    ) -> None:
        if key not in place:
            fill = np.nan if found.dtype.kind == "f" else -1
            whole = found.shape[1:] if shape is None else shape
            place[key] = np.full((len(self.shard), *whole), fill, found.dtype)
        extent = () if shape is None else tuple(slice(size) for size in found.shape[1:])
        place[key][(rows, *extent)] = found

    def settle(self, *, keep_last: bool = False) -> None:
        """End a batch; enter what has arrived of all, or of all but the last."""
        self.arrivals.settle(keep_last=keep_last)

    def write(
        self,
        root: str,
        pass_name: str,
        sink: MapSink,
        plan: Plan,
        records: Sequence[Record],
        executor: Executor,
    ) -> dict[str, str]:
        """Write everything durably and return its objects and their SHA-256.

        Each object waits for the disk, or the network; `executor` lets them wait together.
        """
        self.settle()
        self._add_arrays(sink, plan)
        if ("", LENGTH) in self.arrays:
            known = [record.length for record in records]
            self.arrays["", LENGTH] = np.array([n or 0 for n in known], np.int64)
        columns = self._columns(records, plan)
        jobs = [executor.submit(samples.write, root, pass_name, self.shard.index, columns)]
        for (name, array), values in self.arrays.items():
            jobs.append(executor.submit(sink.write, name, array, self.shard, values))
        for table, rows in self.rows.items():
            # a batch gives all rows of one target, and is not of samples in order where they differ
            # in length; what is stored does not depend on the size of batches
            rows.sort(key=lambda row: (row["sample"], row.get("target", 0)))
            jobs.append(executor.submit(tables.write, root, table, self.shard.index, rows))
        for (scan, each), state in self.states.items():
            jobs.append(executor.submit(states.write, root, scan, each, self.shard.index, state))
        # all of them, before any error is raised: nothing is written behind the caller's back
        wait(jobs)
        return {path: digest for job in jobs for path, digest in job.result().items()}

    def _add_arrays(self, sink: MapSink, plan: Plan) -> None:
        """Describe the arrays that nobody knew of before a method found them."""
        for (name, array), values in self.arrays.items():
            is_record = (name, array) in self.records
            is_planned = not name or (is_relevance(array) and not is_record)
            if not is_planned and not sink.has(name, array):
                named = self.axes.get((name, array))
                layout = (
                    _recorded(array, values)
                    if is_record
                    else _layout(name, array, values, plan, named)
                )
                sink.add(name, array, layout, plan.n_samples, plan.shard_size)

    def _columns(self, records: Sequence[Record], plan: Plan) -> Mapping[str, Any]:
        columns: dict[str, Any] = {
            "index": np.array([record.index for record in records], dtype=np.int64),
            "sample_id": [record.sample_id for record in records],
            "label": np.array([record.label for record in records], dtype=np.int64),
            samples.STATUS: [self.failures.get(row, "") for row in range(len(records))],
        }
        summaries = self._summaries(len(plan.targets))
        for name, values in self._magnitudes(summaries).items():
            counted = int((~np.isfinite(values)).sum()) - len(self.failures)
            if counted:
                self.not_finite[name] = counted
        return columns | self.facts | summaries

    def _magnitudes(self, summaries: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the sizes of every explainer's maps, NaN where one is: failed ones all are."""
        found: dict[str, NDArray[Any]] = {}
        for column, values in summaries.items():
            name, kind = column.split(".")[:2]
            if kind != "sum":
                # NaN if either is, of one target or another
                found[name] = np.maximum(found.get(name, np.abs(values)), np.abs(values))
        return found

    def _summaries(self, n_targets: int) -> dict[str, NDArray[Any]]:
        """Return sum, minimum and maximum of the maps of every explainer, sample and target."""
        maps: dict[str, list[NDArray[Any]]] = {}
        beyond: dict[str, list[NDArray[np.bool_]]] = {}
        for (name, array), values in self.arrays.items():
            if name and is_relevance(array) and (name, array) not in self.records:
                shape = (len(values), n_targets, -1)
                maps.setdefault(name, []).append(values.reshape(shape))
                if self.extents:
                    outside = self._beyond((name, array)).reshape(shape)
                    beyond.setdefault(name, []).append(outside)
        found: dict[str, NDArray[Any]] = {}
        for name, parts in maps.items():
            # of several inputs, all together
            inner = flat = np.concatenate(parts, axis=2)
            if name in beyond:
                outside = np.concatenate(beyond[name], axis=2)
                # what comes first is always of the sample
                inner, flat = np.where(outside, flat[..., :1], flat), np.where(outside, 0, flat)
            with np.errstate(invalid="ignore", over="ignore"):  # counted, see not_finite
                for target in range(n_targets):
                    end = suffix(target)
                    found[f"{name}.sum{end}"] = flat[:, target].sum(axis=1, dtype=np.float64)
                    found[f"{name}.min{end}"] = inner[:, target].min(axis=1)
                    found[f"{name}.max{end}"] = inner[:, target].max(axis=1)
        return found

    def _beyond(self, key: tuple[str, str]) -> NDArray[np.bool_]:
        """Return what of an array lies beyond the lengths of samples that were entered."""
        shape = self.arrays[key].shape
        extents = self.extents.get(key)
        if extents is None:
            return np.zeros(shape, dtype=bool)
        found = lengths.beyond(extents, shape[1:])
        found[~extents.any(axis=1)] = False
        return found


def layouts(plan: Plan, names: Sequence[str]) -> dict[str, Layout]:
    """Return the layouts of the maps of some explainers, by ``explainer/array``."""
    found = {}
    for name, spec in plan.maps.items():
        explainer, part = split_name(name)
        if explainer in names:
            layout = _with_target(plan, spec.dims, spec.shape, plan.dtype)
            found[f"{explainer}/{relevance_of(part)}"] = layout
    return found


def coordinates(plan: Plan) -> dict[str, Layout]:
    """Return the layouts of the coordinates."""
    own = {} if plan.lengths is None else {LENGTH: Layout(dtype="int64")}
    return {**COORDINATES, "target": _with_target(plan, (), (), "int64"), **own}


def _with_target(plan: Plan, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> Layout:
    if not plan.has_target_dimension:
        return Layout(dims, shape, dtype)
    return Layout(("target", *dims), (len(plan.targets), *shape), dtype)


def _recorded(array: str, values: NDArray[Any]) -> Layout:
    """Return the layout of what a scan keeps of each sample: of a layer, a number per channel."""
    shape = values.shape[1:]
    last = array.rpartition("/")[2]
    dims = (
        ("channel",) if len(shape) == 1 else tuple(f"{last}_{axis}" for axis in range(len(shape)))
    )
    return Layout(dims, shape, str(values.dtype))


def _layout(
    name: str, array: str, values: NDArray[Any], plan: Plan, named: tuple[str, ...] | None
) -> Layout:
    """Return the layout of an array that a method found beside its map, often shaped like it."""
    shape = values.shape[1:]
    lead = ("target",) if plan.has_target_dimension else ()
    own = tuple(shape[len(lead) :])
    if named is not None and len(named) == len(own):
        return Layout((*lead, *named), shape, str(values.dtype))
    for of_map, spec in plan.maps.items():
        if split_name(of_map) == (name, array.partition(".")[2]) and spec.shape == own:
            return Layout((*lead, *spec.dims), shape, str(values.dtype))
    if own == tuple(plan.input_shape) and len(own) == 3:
        return Layout((*lead, "channel", "height", "width"), shape, str(values.dtype))
    dims = tuple(f"{array}_{axis}" for axis in range(len(shape) - len(lead)))
    return Layout((*lead, *dims), shape, str(values.dtype))
