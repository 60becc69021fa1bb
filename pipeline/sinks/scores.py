"""What metrics say of each sample: scalars, and curves of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import paths
from pipeline.sinks import columns as parquet

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


def write(
    root: str | os.PathLike[str],
    metric: str,
    explainer: str,
    shard: int,
    columns: Mapping[str, NDArray[Any]],
) -> dict[str, str]:
    """Write one shard durably and return its object and SHA-256.

    Parameters
    ----------
    root
        The run folder.
    metric, explainer
        What judged, and whose maps were judged.
    shard
        The shard's index.
    columns
        One row per sample of the shard each, NaN where there is no score; two-dimensional arrays
        are curves.
    """
    path = paths.scores_path(metric, explainer, shard)
    return {path: paths.Folder(root).write(path, parquet.to_bytes(parquet.table(columns)))}


def read(
    root: str | os.PathLike[str],
    metric: str,
    explainer: str,
    shards: Iterable[int] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the columns over these shards, in this order; by default over all that there are.

    Who has a ledger passes the shards that it vouches for.
    """
    folder = paths.Folder(root)
    chosen = stored_shards(root, metric, explainer) if shards is None else tuple(shards)
    stored = [parquet.from_file(folder, paths.scores_path(metric, explainer, n)) for n in chosen]
    return parquet.arrays(pa.concat_tables(stored)) if stored else {}


def stored_shards(root: str | os.PathLike[str], metric: str, explainer: str) -> tuple[int, ...]:
    """Return the shards for which a file exists, in order."""
    names = paths.Folder(root).entries(f"{paths.SCORES}/{metric}/{explainer}")
    stems = (name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))
    return tuple(sorted(int(stem) for stem in stems if stem.isdecimal()))
