"""Nodes of a Zarr v3 hierarchy: their metadata documents, made by zarr-python, written by us."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from pipeline.sinks import encoding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.abc.store import Store

    from pipeline.paths import Folder

DOCUMENT = "zarr.json"
SMALL = 256
"""Bytes per sample up to which a shard is one chunk: alone, each would be mostly index and CRC."""


def readable(folder: Folder, name: str) -> Store:
    """Return a read-only Zarr store of a hierarchy in a run folder."""
    if folder.is_local:
        return LocalStore(folder.at(name), read_only=True)
    # the folder's own client, in threads: zarr's would be opened otherwise and never be closed
    system = AsyncFileSystemWrapper(folder.fs, asynchronous=True)
    return FsspecStore(system, path=folder.at(name), read_only=True)


def array_document(
    *,
    n_samples: int,
    shard_size: int,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str,
    attributes: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the metadata of an array over samples whose Zarr shards are the pipeline's shards."""
    kept: dict[str, Any] = {}
    store = MemoryStore(kept)
    whole = (shard_size, *shape)
    is_sharded = np.dtype(dtype).itemsize * math.prod(shape) > SMALL
    zarr.create(
        store=store,
        shape=(n_samples, *shape),
        chunks=whole,
        dtype=dtype,
        fill_value=fill_value(dtype),
        codecs=[encoding.sharding((1, *shape))] if is_sharded else list(encoding.chunk_codecs()),
        dimension_names=("sample", *dims),
        chunk_key_encoding=("default", "."),  # one file per shard, no folders
        attributes=dict(attributes or {}),
        zarr_format=3,
    )
    return to_bytes(json.loads(kept[DOCUMENT].to_bytes()))


def group_document(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the metadata of a group."""
    return to_bytes({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})})


def consolidated(root: bytes, below: Mapping[str, bytes]) -> bytes:
    """Return the root's metadata with that of every node below it, so that one read opens all.

    Parameters
    ----------
    root
        The root's own document.
    below
        Path of each other node to its document.
    """
    inline = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {path: json.loads(below[path]) for path in sorted(below)},
    }
    return to_bytes(json.loads(root) | {"consolidated_metadata": inline})


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as it is stored; reading and writing it again gives the same bytes."""
    return json.dumps(document, indent=2).encode()


def fill_value(dtype: str) -> Any:
    """Return what stands for nothing: NaN, -1, or 0 for types that have neither."""
    return {"f": float("nan"), "i": -1}.get(np.dtype(dtype).kind, 0)
