"""Rows of Parquet files by position, a slice of a row group at a time and never a whole file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

SLICE_BYTES = 16 * 2**20
"""Of a slice, about, when it is decompressed. Row groups can be as large as their file, so a whole
one is not what a worker can be asked to hold."""

_N_SLICES = 4
"""That are kept: of as many as threads and prefetched batches are likely to be in at once."""

_BUFFER = 2**20
"""Bytes that are read at once, or a page if it is larger: pages are what is compressed. Without a
buffer, or with what pyarrow calls pre-buffering, the column of a row group is read as a whole."""


@dataclass
class _Cursor:
    """How far a row group has been read."""

    slices: Iterator[Any]
    stop: int = 0


class RowGroups:
    """Reads rows of some columns; for several threads.

    Rows that are asked for in order, as shards ask, are read once. Going back to a slice that is no
    longer kept reads its row group from the start.

    Parameters
    ----------
    columns
        That are read; others cost nothing.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._lock = threading.Lock()
        self._slices: OrderedDict[tuple[str, int, int], pa.RecordBatch] = OrderedDict()
        self._cursors: OrderedDict[tuple[str, int], _Cursor] = OrderedDict()
        self._opened: OrderedDict[str, Any] = OrderedDict()

    def row(self, path: str, group: int, row: int) -> tuple[pa.RecordBatch, int]:
        """Return rows that hold a row of a row group, and where in them it is.

        Raises
        ------
        OSError, pyarrow.ArrowException, IndexError
            If the file is broken there, or has fewer rows.
        """
        with self._lock:
            kept = self._kept(path, group, row)
            while kept is None:
                self._advance(path, group, row)
                kept = self._kept(path, group, row)
            return kept

    def _kept(self, path: str, group: int, row: int) -> tuple[pa.RecordBatch, int] | None:
        for key, rows in self._slices.items():
            if key[:2] == (path, group) and 0 <= row - key[2] < rows.num_rows:
                self._slices.move_to_end(key)
                return rows, row - key[2]
        return None

    def _advance(self, path: str, group: int, row: int) -> None:
        """Read the next slice, from the start if the row is behind."""
        key = (path, group)
        cursor = self._cursors.get(key)
        if cursor is None or cursor.stop > row:
            cursor = self._cursors[key] = _Cursor(self._read(path, group))
        self._cursors.move_to_end(key)
        try:
            rows = next(cursor.slices, None)
        except Exception:
            # it does not go on; the next sample starts anew, and fails for itself
            del self._cursors[key]
            raise
        if rows is None:
            del self._cursors[key]
            raise IndexError(f"row group {group} has {cursor.stop} rows, and no row {row}")
        self._slices[(path, group, cursor.stop)] = rows
        cursor.stop += rows.num_rows
        while len(self._slices) > _N_SLICES:
            self._slices.popitem(last=False)
        while len(self._cursors) > 2:
            self._cursors.popitem(last=False)

    def _read(self, path: str, group: int) -> Iterator[Any]:
        opened = self._open(path)
        about = opened.metadata.row_group(group)
        sizes = [about.column(each).total_uncompressed_size for each in self._leaves(about)]
        n_rows = max(1, int(SLICE_BYTES * about.num_rows // max(1, sum(sizes))))
        batches: Iterator[Any] = opened.iter_batches(
            batch_size=min(n_rows, max(1, about.num_rows)),
            row_groups=[group],
            columns=self._columns,
            use_threads=False,
        )
        return batches

    def _leaves(self, about: Any) -> list[int]:
        names = [about.column(each).path_in_schema for each in range(about.num_columns)]
        roots = tuple(f"{column}." for column in self._columns)
        return [at for at, name in enumerate(names) if f"{name}.".startswith(roots)]

    def _open(self, path: str) -> Any:
        import pyarrow.parquet as pq

        if path not in self._opened:
            place = files.open_file(path) if files.is_url(path) else path
            self._opened[path] = pq.ParquetFile(place, buffer_size=_BUFFER, pre_buffer=False)
            if len(self._opened) > 2:
                # cursors that are still in it keep it open
                self._opened.popitem(last=False)
        self._opened.move_to_end(path)
        return self._opened[path]
