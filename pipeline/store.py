"""Read a run, finished or not: maps, statistics, scores and facts, as far as the ledger vouches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.errors import IntegrityError, StoreError
from pipeline.ledger import Entry, Ledger
from pipeline.plan import EXPLAIN, Plan, split_name
from pipeline.sinks import graphs as graph_sink
from pipeline.sinks import maps as map_sink
from pipeline.sinks import results, tables
from pipeline.sinks import samples as sample_sink
from pipeline.sinks import scores as score_sink
from pipeline.sinks.masked import MaskedArray

if TYPE_CHECKING:
    import os

    import pyarrow as pa
    import xarray as xr
    from numpy.typing import NDArray

    from pipeline.config import RunConfig
    from pipeline.manifest import Manifest
    from pipeline.shards import Shard
    from pipeline.sinks.stored_result import StoredResult
    from pipeline.spray.result import Analysis

_BESIDE = ("target", "prediction", map_sink.LENGTH)
"""Coordinates of samples that come with every array, where there are such."""

EVALUATE = "evaluate."
"""Start of the names of passes that write scores."""

OWN = (EVALUATE, f"{paths.SPRAY}.")
"""Starts of the names of passes whose records have digests of their own."""


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run's folder for reading.

    Parameters
    ----------
    path
        A local path or any fsspec URL.

    Raises
    ------
    StoreError
        If there is no run.
    """
    folder = paths.Folder(path)
    if not folder.exists(paths.PLAN):
        raise StoreError(
            f"{folder.url} holds no run: it has no {paths.PLAN}",
            fix="name a folder that `xpipe run` wrote; `xpipe list` shows them",
            page="no-run-here",
        )
    return Run(folder)


class Run:
    """A run in its folder; what it says is read when it is asked for, anew each time it may grow.

    Parameters
    ----------
    folder
        Where it is.
    """

    def __init__(self, folder: paths.Folder) -> None:
        self.folder = folder
        self.path = folder.url
        self.ledger = Ledger(folder.url)

    def __repr__(self) -> str:
        return f"open_run({self.path!r})"

    @cached_property
    def config(self) -> RunConfig:
        """What was asked for."""
        from pipeline.config import load

        with self.folder.local(paths.RUN_FILE) as file:
            return load(file)

    @cached_property
    def plan(self) -> Plan:
        """What was decided."""
        return Plan.read(self.folder.at_url(paths.PLAN))

    @cached_property
    def manifest(self) -> Manifest:
        """The samples, in order."""
        from pipeline.manifest import Manifest

        return Manifest.read(self.folder.at_url(paths.MANIFEST))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, seeds and digests; empty if they were not written."""
        try:
            environment: dict[str, Any] = json.loads(self.folder.read(paths.ENVIRONMENT))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise IntegrityError(
                f"{paths.ENVIRONMENT} is damaged: {error}",
                fix="restore it from a copy",
                page="damaged-documents",
            ) from error
        return environment

    @property
    def maps(self) -> Mapping[str, xr.DataArray]:
        """Explainer to its relevance, read when it is indexed; NaN where it is not done.

        Where a model takes several inputs, ``<explainer>.<input>`` to the relevance of each.
        """
        return _Lazily(tuple(self.plan.maps), self._map)

    @property
    def spray(self) -> Mapping[str, Analysis]:
        """Explainer to the spectral analysis of its maps, read when it is indexed."""
        from pipeline.spray import stored

        return _Lazily(stored.names(self.path), partial(stored.read, self.path))

    @property
    def scans(self) -> Mapping[str, StoredResult]:
        """Scan to its result: nested mappings whose numpy arrays are read when they are indexed."""
        return _Lazily(results.names(self.path), self._result)

    def graphs(self, scan: str) -> Mapping[str, dict[str, Any]]:
        """Return class, as a string, to the graph that a scan found, read when it is indexed."""
        return graph_sink.stored(self.path, scan)

    def array(self, name: str, array: str = map_sink.RELEVANCE) -> xr.DataArray:
        """Return an array per sample, lazily, with its scale applied.

        Parameters
        ----------
        name
            Explainer; the empty string for a coordinate.
        array
            ``relevance``, what the method finds beside it, or what a scan keeps of each sample
            (``layer/total``).

        Raises
        ------
        StoreError
            If there is no such array.
        """
        import xarray as xr

        first = self.entries(EXPLAIN)
        made_by = self._passes_of(name) if name else (EXPLAIN,)
        entries = [first if each == EXPLAIN else self.entries(each) for each in made_by]
        stored = MaskedArray.open(self.folder, name, array, *entries)
        coordinates: dict[str, Any] = {"sample": np.arange(self.plan.n_samples)}
        if name:
            others = [other for other in _BESIDE if self._has(other)]
            beside = [MaskedArray.open(self.folder, "", other, first) for other in others]
            coordinates |= {
                other: part.variable() for other, part in zip(others, beside, strict=True)
            }
        return xr.DataArray(stored.variable(), coords=coordinates, name=name or array)

    def _map(self, name: str) -> xr.DataArray:
        explainer, part = split_name(name)
        return self.array(explainer, map_sink.relevance_of(part)).rename(name)

    def arrays(self, name: str) -> tuple[str, ...]:
        """Return the names of an explainer's arrays, ``relevance`` among them.

        Those of a scan are what it keeps of each sample: ``layer/total``.
        """
        nodes = map_sink.stored(self.folder)
        groups = map_sink.groups(nodes)
        below = [node.partition("/") for node in nodes if node not in groups]
        return tuple(array for explainer, _, array in below if explainer == name and array)

    def entries(self, pass_name: str) -> dict[int, Entry]:
        """Return the records of this run's digest by shard; those of `OWN` have others."""
        if pass_name.startswith(OWN):
            return self.ledger.entries(pass_name)
        return self.ledger.current(pass_name, self.plan.digest)

    def pass_of(self, name: str) -> str:
        """Return the pass that makes an explainer's maps."""
        explainer, _ = split_name(name)
        passes = (each.name for each in self.plan.passes if explainer in each.attributions)
        return next(passes, EXPLAIN)

    def _passes_of(self, name: str) -> tuple[str, ...]:
        """Return the passes that may write arrays of an entry: of a scan, those of its rounds."""
        if any(name in each.scans for each in self.plan.passes):
            rounds = (each for each in self.ledger.passes() if each.startswith(f"{name}."))
            return (EXPLAIN, *rounds)
        return (self.pass_of(name),)

    def samples(self, pass_name: str = EXPLAIN) -> pa.Table:
        """Return the facts per sample of the shards that are done, in order."""
        return sample_sink.read(self.path, pass_name, self._holding(pass_name, paths.samples_path))

    def table(self, name: str) -> pa.Table:
        """Return the rows of a table of the shards that are done, in order."""
        explainer = name.partition(".")[0]
        entries = self.entries(self.pass_of(explainer))
        done = [n for n, entry in entries.items() if paths.table_path(name, n) in entry.objects]
        return tables.read(self.path, name, done)

    def scores(self, metric: str, explainer: str) -> dict[str, NDArray[Any]]:
        """Return the columns of a metric, each with a row per sample of the run.

        Rows that are not there yet are NaN (-1 in columns of integers); without any, it is empty.
        """
        columns: dict[str, NDArray[Any]] = {}
        for index, entry in self.entries(f"{EVALUATE}{metric}").items():
            if paths.scores_path(metric, explainer, index) not in entry.objects:
                continue
            part = score_sink.read(self.path, metric, explainer, [index])
            for column, values in part.items():
                self._place(columns, column, self.plan.shards[index], values)
        return columns

    def failures(self) -> list[tuple[str, str]]:
        """Return id and reason of each sample that could not be used, in order, once."""
        found: dict[str, tuple[int, str]] = {}
        for pass_name in self._passes():
            entries = self.entries(pass_name)
            shards = [
                shard
                for shard in self._holding(pass_name, paths.samples_path)
                if entries[shard].n_failed
            ]
            rows = sample_sink.read(self.path, pass_name, shards).to_pydict()
            for index, sample_id, status in zip(
                *(rows.get(name, ()) for name in ("index", "sample_id", sample_sink.STATUS)),
                strict=True,
            ):
                if status:
                    found.setdefault(sample_id, (index, status))
        ordered = sorted(found.items(), key=_by_index)
        return [(sample_id, status) for sample_id, (_, status) in ordered]

    def timings(self) -> pa.Table:
        """Return what records say of time and memory, a row per shard that is done."""
        from pipeline import timings

        return timings.table(self)

    def not_finite(self, *pass_names: str) -> dict[str, int]:
        """Return explainer to its number of maps that are NaN or infinite somewhere, if any.

        Samples that failed are not counted; by default over all passes.
        """
        found: dict[str, int] = {}
        for name in pass_names or (each.name for each in self.plan.passes):
            for entry in self.entries(name).values():
                for explainer, counted in entry.not_finite.items():
                    found[explainer] = found.get(explainer, 0) + counted
        return found

    def progress(self) -> dict[str, dict[str, Any]]:
        """Return how far each pass is: shards ``done`` of ``total``, samples, seconds of work."""
        total = len(self.plan.shards)
        return {name: _tally(self.entries(name), total) for name in self._passes()}

    def _passes(self) -> tuple[str, ...]:
        planned = (each.name for each in self.plan.passes)
        return tuple(dict.fromkeys((*planned, *self.ledger.passes())))

    def _holding(self, pass_name: str, path: Any) -> list[int]:
        entries = self.entries(pass_name).items()
        return [shard for shard, entry in entries if path(pass_name, shard) in entry.objects]

    def _has(self, coordinate: str) -> bool:
        return map_sink.MapSink(self.path).has("", coordinate)

    def _result(self, name: str) -> StoredResult:
        return results.stored(self.path, name)

    def _place(
        self, columns: dict[str, NDArray[Any]], column: str, shard: Shard, values: NDArray[Any]
    ) -> None:
        if len(values) != len(shard):
            raise StoreError(
                f"got {len(values)} scores {column!r} of {shard!r}, expected {len(shard)}",
                fix="remove the folder scores, then run `xpipe evaluate` again",
            )
        if column not in columns:
            shape = (self.plan.n_samples, *values.shape[1:])
            fill = -1 if values.dtype.kind == "i" else np.nan
            columns[column] = np.full(shape, fill, dtype=values.dtype)
        columns[column][shard.rows] = values


class _Lazily(Mapping[str, Any]):
    """Names to what a function returns for them, at the time of asking."""

    def __init__(self, names: tuple[str, ...], read: Any) -> None:
        self._names = names
        self._read = read

    def __repr__(self) -> str:
        return f"<{', '.join(self._names) or 'none'}; read when indexed>"

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(f"{name!r}; there are: {', '.join(self._names) or 'none'}")
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _by_index(failure: tuple[str, tuple[int, str]]) -> int:
    return failure[1][0]


def _tally(entries: dict[int, Entry], total: int) -> dict[str, Any]:
    return {
        "done": len(entries),
        "total": total,
        "samples": sum(entry.n_samples for entry in entries.values()),
        "failed": sum(entry.n_failed for entry in entries.values()),
        "seconds": sum(entry.seconds for entry in entries.values()),
    }
