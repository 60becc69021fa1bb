"""Facts per sample: who it is, what the network said, and what each map sums to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import paths
from pipeline.sinks import columns as parquet

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

STATUS = "status"
"""Column: empty for a sample that was used, else why it was not."""


def write(
    root: str | os.PathLike[str],
    pass_name: str,
    shard: int,
    columns: Mapping[str, NDArray[Any] | Sequence[Any]],
) -> dict[str, str]:
    """Write one shard durably and return its object and SHA-256.

    Parameters
    ----------
    root
        The run folder.
    pass_name
        The pass.
    shard
        The shard's index.
    columns
        ``index``, ``sample_id``, ``label``, ``prediction``, ``logit``, ``status`` (empty, or the
        reason why the sample failed), and ``<explainer>.sum``, ``.min``, ``.max``, ``.<delta>``.
    """
    path = paths.samples_path(pass_name, shard)
    return {path: paths.Folder(root).write(path, parquet.to_bytes(parquet.table(columns)))}


def read(root: str | os.PathLike[str], pass_name: str, shards: Iterable[int]) -> pa.Table:
    """Return the rows of these shards, in this order; the caller takes them from the ledger."""
    folder = paths.Folder(root)
    names = (paths.samples_path(pass_name, shard) for shard in shards)
    stored = [parquet.from_file(folder, name) for name in names]
    return pa.concat_tables(stored, promote_options="permissive") if stored else pa.table({})
