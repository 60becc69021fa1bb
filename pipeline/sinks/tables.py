"""Rows per sample, any number of them: hierarchies, concept graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import paths
from pipeline.sinks import columns as parquet

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence


def write(
    root: str | os.PathLike[str], name: str, shard: int, rows: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """Write the rows of one shard durably and return the object and its SHA-256.

    Parameters
    ----------
    root
        The run folder.
    name
        The table: its explainer, or ``<explainer>.<table>`` where there are several.
    shard
        The shard's index.
    rows
        Column to value each; a column ``sample`` names the sample by its index.
    """
    path = paths.table_path(name, shard)
    return {path: paths.Folder(root).write(path, parquet.to_bytes(_table(rows)))}


def read(root: str | os.PathLike[str], name: str, shards: Iterable[int]) -> pa.Table:
    """Return the rows of these shards, in this order; the caller takes them from the ledger."""
    folder = paths.Folder(root)
    stored = [parquet.from_file(folder, paths.table_path(name, shard)) for shard in shards]
    # A shard without rows knows no types, nor does a column that held nothing but None.
    filled = [part for part in stored if part.num_rows]
    return pa.concat_tables(filled, promote_options="permissive") if filled else pa.table({})


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    # Not from_pylist: it takes the columns of the first row for those of all.
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})
