"""Arrays over samples as readers see them: scaled, and masked where the ledger does not vouch.

Zarr reads a missing shard as its fill value without a word, and an uncommitted one may be what a
killed or overtaken writer left; so what is read is decided by the ledger, shard by shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from xarray import Variable
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from pipeline.errors import IntegrityError
from pipeline.sinks import maps, nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import zarr
    from numpy.typing import NDArray

    from pipeline import paths
    from pipeline.ledger import Entry


class MaskedArray(BackendArray):
    """A stored array that is read where its shards are done, and filled elsewhere.

    Parameters
    ----------
    stored
        As it is in the store.
    scale
        By which each sample is multiplied, if any.
    folder
        The run's.
    objects
        Shard to the object that its record vouches for.
    """

    def __init__(
        self,
        stored: zarr.Array[Any],
        scale: zarr.Array[Any] | None,
        folder: paths.Folder,
        objects: Mapping[int, str],
    ) -> None:
        self._stored = stored
        self._scale = scale
        self._folder = folder
        self._objects = objects
        document: dict[str, Any] = dict(stored.metadata.to_dict())
        self._dims: tuple[str, ...] = tuple(document["dimension_names"])
        self._shard_size = (stored.shards or stored.chunks)[0]
        self.shape = stored.shape
        self.dtype = np.dtype(stored.dtype if scale is None else np.float32)

    @classmethod
    def open(
        cls, folder: paths.Folder, name: str, array: str, *entries: Mapping[int, Entry]
    ) -> MaskedArray:
        """Open an array of which the shards in `entries`, of one pass or several, are done."""
        stored = maps.read(folder.url, name, array)
        scaled_by = stored.attrs.get("scaled_by")
        scale = maps.read(folder.url, name, str(scaled_by)) if scaled_by else None
        node = f"{name}/{array}".lstrip("/")
        vouched = {
            shard: path
            for of_pass in entries
            for shard, entry in of_pass.items()
            if (path := maps.object_path(node, shard, stored.ndim)) in entry.objects
        }
        return cls(stored, scale, folder, vouched)

    def variable(self) -> Variable:
        """Return it for xarray, with its dimensions named; nothing is read yet."""
        return Variable(self._dims, LazilyIndexedArray(self))

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._get)

    def _get(self, key: tuple[Any, ...]) -> Any:
        """Return the outer product of an integer, slice or array of integers per dimension."""
        chosen = np.arange(self.shape[0])[key[0]]
        values = self._rows(np.atleast_1d(chosen))
        for axis in reversed(range(1, len(key))):
            values = values[(slice(None),) * axis + (key[axis],)]
        return values if chosen.ndim else values[0]

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        shards = rows // self._shard_size
        is_done = np.isin(shards, list(self._objects))
        self._check(np.unique(shards[is_done]).tolist())
        if is_done.all() and len(rows):
            return self._read(rows)
        fill = nodes.fill_value(self.dtype.str)
        values = np.full((len(rows), *self.shape[1:]), fill, dtype=self.dtype)
        if is_done.any():
            values[is_done] = self._read(rows[is_done])
        return values

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        try:
            # All of a sample, whatever is asked for of it: it is one chunk.
            values = np.asarray(self._stored.oindex[_simplest(rows)])
            if self._scale is None:
                return values
            scale = np.asarray(self._scale.oindex[_simplest(rows)])
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(self._stored.path, str(error)) from error
        scaled: NDArray[Any] = values.astype(np.float32)
        with np.errstate(over="ignore"):  # close to float32's end, float16 rounds up to infinity
            scaled *= scale.reshape(-1, *[1] * (values.ndim - 1))
        return scaled

    def _check(self, shards: Collection[int]) -> None:
        """Refuse objects that are gone, which Zarr would read as if they were empty."""
        for shard in shards:
            if not self._folder.exists(self._objects[shard]):
                raise _damaged(self._objects[shard], "it is missing")


def _simplest(rows: NDArray[np.int64]) -> Any:
    """Return a slice where rows are consecutive, which reads faster."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    is_run = stop - start == len(rows) and bool((np.diff(rows) == 1).all())
    return slice(start, stop) if is_run else rows


def _damaged(what: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"cannot read {what!r}: {reason}",
        fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
    )
