"""What is exported of a run: maps and the arrays beside them, who the samples are, their scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explainers.registry import suggest
from pipeline import aggregate, environment
from pipeline.errors import ConfigError
from pipeline.plan import split_name
from pipeline.sinks.maps import RELEVANCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from pipeline.store import Run

BESIDE = ("target", "length")
"""Coordinates of samples that are exported as facts, where there are such."""


@dataclass(frozen=True, eq=False)
class Stored:
    """An array with a row per sample, read shard by shard."""

    group: str
    """The explainer; of scores ``scores/<metric>/<explainer>``."""
    name: str
    """``relevance``, or what is beside it."""
    data: xr.DataArray
    """Lazy; its first dimension is ``sample``."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(str(dim) for dim in self.data.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values as they are read: float16 is scaled back to float32."""
        return np.dtype(self.data.dtype)

    def rows(self, rows: slice) -> NDArray[Any]:
        """Return the values of some samples."""
        return np.asarray(self.data.isel(sample=rows).values)


class Contents:
    """A run, as exports see it.

    Parameters
    ----------
    run
        The opened run.
    explainers
        Whose maps; all if None.
    """

    def __init__(self, run: Run, explainers: Sequence[str] | None = None) -> None:
        self.run = run
        known = dict.fromkeys(split_name(name)[0] for name in run.plan.maps)
        self.explainers = tuple(known if explainers is None else explainers)

    @property
    def slices(self) -> Iterator[slice]:
        """Rows of each shard, in order."""
        return (shard.rows for shard in self.run.plan.shards)

    @cached_property
    def attributes(self) -> dict[str, str | int]:
        """What the export is of."""
        plan, config = self.run.plan, self.run.config
        return {
            "name": config.name,
            "digest": plan.digest,
            "weights_digest": plan.weights_digest,
            "manifest_digest": plan.manifest_digest,
            "model": config.model.name,
            "data": config.data.source,
            "seed": config.seed,
            "targets": ", ".join(map(str, plan.targets)),
            "xpipe": environment.versions().get("xpipe-xai", ""),
        }

    @cached_property
    def samples(self) -> dict[str, NDArray[Any]]:
        """Facts per sample: ``sample_id``, ``label``, ``prediction``, ``status`` and more.

        Those of samples whose shard is not done are -1, NaN and ``not done``.
        """
        n = self.run.plan.n_samples
        records = self.run.manifest.slice(0, n)
        found: dict[str, NDArray[Any]] = {
            "sample_id": np.array([record.sample_id for record in records], dtype=object),
            "label": np.array([record.label for record in records], np.int64),
            "status": np.full(n, "not done", dtype=object),
        }
        known: Mapping[str, list[Any]] = self.run.samples().to_pydict()
        rows = np.array(known.get("index", []), np.int64)
        for name, given in known.items():
            if name in ("index", "sample_id", "label"):
                continue
            values = np.array(given, dtype=object if name == "status" else None)
            if name not in found:
                fill: Any = np.nan if values.dtype.kind == "f" else -1
                found[name] = np.full(n, fill, values.dtype)
            found[name][rows] = values
        return found | self._coordinates()

    def _coordinates(self) -> dict[str, NDArray[Any]]:
        """Return what is stored once for all maps; several targets of a sample are no fact."""
        known = next(self.arrays()).data.coords
        found = {name: np.asarray(known[name].values) for name in BESIDE if name in known}
        return {name: values for name, values in found.items() if values.ndim == 1}

    def arrays(self) -> Iterator[Stored]:
        """Yield the arrays of every explainer."""
        for name in self.explainers:
            for array in self.run.arrays(name):
                if array != "scale":
                    yield Stored(name, array, self.run.array(name, array))

    def scores(self) -> Iterator[tuple[str, str, str, NDArray[Any]]]:
        """Yield metric, explainer, column and values, ``(sample,)`` or ``(sample, step)``."""
        for metric in aggregate.judged(self.run):
            for explainer in metric.explainers:
                for column, values in self.run.scores(metric.name, explainer).items():
                    yield metric.name, explainer, column, np.asarray(values)


def refuse_unknown(run: Run, explainers: Sequence[str] | None) -> None:
    """Refuse names that have no maps in a run.

    Raises
    ------
    ConfigError
        If there is one.
    """
    known = list(dict.fromkeys(split_name(name)[0] for name in run.plan.maps))
    for name in explainers or ():
        if name not in known:
            raise ConfigError(
                f"there are no maps of {name!r} in {run.path}; {suggest(name, known)}",
                fix="name entries of the section explainers that are no scans",
                page="unknown-name",
            )
    if not known:
        raise ConfigError(
            f"{run.path} has no maps to export: all its explainers are scans",
            fix="open scans/<name>.zarr with xarray or zarr",
        )


def main_array(stored: Stored) -> bool:
    """Whether an array is the map itself."""
    return stored.name == RELEVANCE
