"""Columns of one value (or one short row) per sample as Parquet, and back."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.paths import Folder


def table(columns: Mapping[str, NDArray[Any] | Sequence[Any]]) -> pa.Table:
    """Return a table; a two-dimensional array becomes a column of lists of one fixed length.

    Raises
    ------
    StoreError
        If the columns differ in length or an array has more than two dimensions.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise StoreError(
            f"got columns of lengths {lengths!r}, expected one row per sample in each",
            fix="give failed samples a row too",
        )
    return pa.table({name: _column(name, values) for name, values in columns.items()})


def arrays(stored: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the columns as arrays; lists of one fixed length become two-dimensional."""
    return {name: _array(stored.column(name)) for name in stored.column_names}


def to_bytes(stored: pa.Table) -> bytes:
    """Return a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(stored, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def from_file(folder: Folder, name: str) -> pa.Table:
    """Read a Parquet file of a run folder; page checksums are checked.

    Raises
    ------
    StoreError
        If there is no such file or it cannot be read.
    """
    try:
        content = folder.read(name)
        # ParquetFile, not read_table: folders named `key=value` must not become columns.
        return pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"cannot read {folder.at(name)!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
            page="integrity",
        ) from error


def _column(name: str, values: NDArray[Any] | Sequence[Any]) -> pa.Array:
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return pa.array(values)
    if values.ndim > 2:
        raise StoreError(
            f"got column {name!r} of shape {values.shape!r}, expected one or two dimensions",
            fix="store arrays per sample through the map sink",
        )
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        rows: NDArray[Any] = flat.reshape(len(column), width)
        return rows
    values: NDArray[Any] = column.to_numpy()
    return values
