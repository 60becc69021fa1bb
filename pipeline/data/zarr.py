"""Arrays of a Zarr store with a row per sample, those of our own runs among them."""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import fsspec
import numpy as np
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from pipeline.data import digests, files, labelling
from pipeline.data.pictures import Pictures
from pipeline.data.source import Record, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.inputs import Inputs

_N_BLOCKS = 2
"""Of each array that are kept: a batch may end in the one after that in which it began."""

_N_SHOWN = 20


@register("zarr")
@dataclass(frozen=True)
class Zarr(Pictures):
    """Arrays of a Zarr group, version 2 or 3, whose first axis is the sample.

    Chunks are read as a whole and kept until those after them are needed.
    """

    path: str
    """The store, or a group or array in it, relative to the run file, or a URL."""
    input_array: str | Mapping[str, str] = ""
    """Array of inputs, as a path below `path`, which is one itself if this is empty; for a model of
    several inputs, the names of its arguments and their arrays."""
    scale_array: str | None = None
    """Array that inputs are multiplied by, one number a sample: `scale` of maps in float16."""
    label_array: str | None = None
    """Array of class indices, or of names if there are `classes`; negative where unknown."""
    id_array: str | None = None
    """Array of what samples are called; rows are numbered if there is none."""
    mask_array: str | None = None
    """Array of masks, `(sample, height, width)`."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by index."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, or named."""
        super().__post_init__()
        labelling.check_names(self.classes)

    def rooted(self, base: Path) -> Self:
        """Return the source with its store below `base`."""
        return replace(self, path=files.rooted(base, self.path))

    def records(self) -> list[Record]:
        """Return the rows in order.

        Raises
        ------
        PlanError
            If there is no such store or array, or arrays differ in how many samples they have.
        """
        n_samples = self._n_samples
        names = [f"{row:06d}" for row in range(n_samples)]
        if self.id_array is not None:
            names = [_said(each) for each in np.asarray(self._array(self.id_array)[...]).tolist()]
        labels = [-1] * n_samples
        if self.label_array is not None:
            values = np.asarray(self._array(self.label_array)[...])
            if values.ndim != 1:
                raise PlanError(
                    f"{self.label_array!r} in {self.path!r} has the shape {values.shape}, expected "
                    "one label a sample",
                    fix="name another array with data.label_array",
                )
            labels = labelling.indices(values.tolist(), self.classes, f"{self.path!r}, labels")
        digest = self._digest
        return [
            Record(
                row,
                names[row],
                str(row),
                max(labels[row], -1),
                str(row) if self.mask_array else None,
                digest=digest,
            )
            for row in range(n_samples)
        ]

    def load(self, record: Record) -> Inputs:
        """Return one row as the model takes it; several by argument name."""
        row = int(record.source)
        if isinstance(self.input_array, str):
            return self.input_of(self._row(self.input_array, row))
        return {name: self.input_of(self._row(at, row)) for name, at in self.input_array.items()}

    def load_mask(self, record: Record) -> Tensor | None:
        """Return one row's mask, resized and cropped as its image."""
        if record.mask is None or self.mask_array is None:
            return None
        return self.mask_of(self._blocks.row(self._array(self.mask_array), int(record.mask)))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those that the run file gives."""
        return self.classes

    def _row(self, name: str, row: int) -> NDArray[Any]:
        values = self._blocks.row(self._array(name), row)
        if self.scale_array is None:
            return values
        scale = self._blocks.row(self._array(self.scale_array), row)
        return np.asarray(values.astype(np.float32) * np.float32(scale))

    @property
    def _inputs(self) -> tuple[str, ...]:
        one = self.input_array
        return (one,) if isinstance(one, str) else tuple(one.values())

    @property
    def _digest(self) -> str:
        """Of the arrays that are read: what they say of themselves, and their files."""
        found: list[files.File] = []
        said: list[str] = []
        for name in (*self._inputs, *filter(None, [self.scale_array])):
            array = self._array(name)
            told = (array.shape, str(array.dtype), array.chunks, str(array.fill_value))
            said.append(json.dumps(told))
            place = files.joined(self.path, array.path) if array.path else self.path
            found += files.listing(place, is_deep=True)
        return digests.of_listing(found, *said)

    @property
    def _n_samples(self) -> int:
        beside = (self.scale_array, self.label_array, self.id_array, self.mask_array)
        names = [*self._inputs, *(name for name in beside if name is not None)]
        sizes = {name: (self._array(name).shape or (0,))[0] for name in names}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name or 'the array'} has {size}" for name, size in sizes.items())
            raise PlanError(
                f"arrays of {self.path!r} differ in how many samples they have: {told}",
                fix="name arrays with a row for each sample",
            )
        return int(sizes[names[0]])

    @functools.cached_property
    def _blocks(self) -> _Blocks:
        return _Blocks()

    @functools.cached_property
    def _arrays(self) -> dict[str, Any]:
        return {}

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self._found(name)
        return self._arrays[name]

    def _found(self, name: str) -> Any:
        import zarr

        opened = self._opened
        try:
            found = opened[name] if name and isinstance(opened, zarr.Group) else opened
        except KeyError:
            found = None
        if name and not isinstance(opened, zarr.Group):
            raise PlanError(
                f"{self.path!r} is an array, and has none {name!r} in it",
                fix="name the group that it is in with data.path",
            )
        if not isinstance(found, zarr.Array):
            there = [
                at for at, node in opened.members(max_depth=None) if isinstance(node, zarr.Array)
            ]
            more = ", ..." if len(there) > _N_SHOWN else ""
            raise PlanError(
                f"{self.path!r} has no array {name!r}; it has {', '.join(there[:_N_SHOWN])}{more}",
                fix="name one of them with data.input_array, label_array, id_array or mask_array",
                page="missing-column",
            )
        return found

    @functools.cached_property
    def _opened(self) -> Any:
        import zarr

        try:
            return zarr.open(_store(self.path), mode="r")
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise PlanError(
                f"there is no Zarr store {self.path!r}: {error}",
                fix="correct data.path; it is relative to the run file",
                page="unreadable-data-file",
            ) from error


class _Blocks:
    """Rows of arrays, by the chunks that they are in; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[int, NDArray[Any]]] = {}

    def row(self, array: Any, row: int) -> NDArray[Any]:
        """Return one row of an array."""
        size = array.chunks[0]
        if size == 1:
            return np.asarray(array[row])
        with self._lock:
            kept = self._kept.setdefault(array.path, OrderedDict())
            block = row // size
            if block not in kept:
                kept[block] = np.asarray(array[block * size : (block + 1) * size])
                while len(kept) > _N_BLOCKS:
                    kept.popitem(last=False)
            kept.move_to_end(block)
            return np.asarray(kept[block][row % size])


def _store(path: str) -> Any:
    """Return what zarr opens; remote stores by the client that everything else is read by."""
    if not files.is_url(path):
        return path
    from zarr.storage import FsspecStore

    system, inside = fsspec.core.url_to_fs(path)
    # one of zarr's own would never be closed
    wrapped = AsyncFileSystemWrapper(system, asynchronous=True)
    return FsspecStore(wrapped, path=inside, read_only=True)


def _said(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
