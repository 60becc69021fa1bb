"""Finalised results of scans: nested mappings of arrays as a Zarr hierarchy each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.sinks import encoding, nodes

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from explainers.base import Result

ENTRIES = "entries"
"""Attribute of a group: its keys in order, each as [key, kind, node name or value]."""

CHUNK_BYTES = 16 << 20
"""Larger arrays are cut along their first axis, so that a layer can be read without the rest."""


def write(root: str | os.PathLike[str], scan: str, result: Result) -> dict[str, str]:
    """Write a result durably and return its objects and their SHA-256.

    A record of the digests is written last; without it there is no result, whatever lies there.

    Parameters
    ----------
    root
        The run folder.
    scan
        The scan's name.
    result
        Names (or integers) to tensors, arrays, plain values, or further such mappings.
    """
    folder = paths.Folder(root)
    withdraw(root, scan)
    kept: dict[str, Any] = {}
    _put_group(MemoryStore(kept), "", result)
    content = {name: bytes(buffer.to_bytes()) for name, buffer in kept.items()}
    documents = {
        name.removesuffix(nodes.DOCUMENT).strip("/"): document
        for name, document in content.items()
        if name.rsplit("/", 1)[-1] == nodes.DOCUMENT
    }
    content[nodes.DOCUMENT] = nodes.consolidated(documents.pop(""), documents)
    base = paths.result_path(scan)
    objects = {f"{base}/{name}": folder.write(f"{base}/{name}", content[name]) for name in content}
    record = json.dumps({"objects": objects}, indent=1, sort_keys=True).encode()
    folder.write(paths.result_record_path(scan), record)
    return objects


def read(root: str | os.PathLike[str], scan: str) -> dict[Any, Any]:
    """Return a result with its keys in order and numpy arrays for tensors.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    folder = paths.Folder(root)
    if not exists(root, scan):
        raise StoreError(
            f"there is no result of {scan!r}", fix="let the run finish: `xpipe resume`"
        )
    store = nodes.readable(folder, paths.result_path(scan))
    try:
        return _get_group(zarr.open_group(store, mode="r"))
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(
            f"cannot read the result of {scan!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
        ) from error


def exists(root: str | os.PathLike[str], scan: str) -> bool:
    """Whether the result is complete."""
    return paths.Folder(root).exists(paths.result_record_path(scan))


def names(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the scans whose results are complete, sorted."""
    found = paths.Folder(root).entries(paths.SCANS)
    return tuple(name.removesuffix(".json") for name in found if name.endswith(".json"))


def objects(root: str | os.PathLike[str], scan: str) -> dict[str, str]:
    """Return what the record vouches for: path to SHA-256.

    Raises
    ------
    ValueError
        If the record is damaged.
    """
    record = json.loads(paths.Folder(root).read(paths.result_record_path(scan)))
    try:
        return {str(path): str(digest) for path, digest in record["objects"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of digests: {error!r}") from error


def withdraw(root: str | os.PathLike[str], scan: str) -> None:
    """Remove a result, the record first."""
    folder = paths.Folder(root)
    folder.remove(paths.result_record_path(scan))
    folder.remove(paths.result_path(scan))


def _put_group(store: MemoryStore, node: str, result: Mapping[Any, Any]) -> None:
    entries = [_entry(key, value) for key, value in result.items()]
    zarr.create_group(store, path=node, attributes={ENTRIES: entries})
    for (_, kind, name), value in zip(entries, result.values(), strict=True):
        path = f"{node}/{name}".lstrip("/")
        if kind == "group":
            _put_group(store, path, value)
        elif kind == "array":
            _put_array(store, path, name, _array(value))


def _entry(key: Any, value: Any) -> list[Any]:
    name = quote(str(key), safe=" #:()[]=,")
    if isinstance(value, Mapping):
        return [_plain(key), "group", name]
    # JSON has no NaN and no infinity; an array of no dimensions has.
    if isinstance(value, torch.Tensor | np.ndarray) or not _is_finite(value):
        return [_plain(key), "array", name]
    return [_plain(key), "value", _plain(value)]


def _put_array(store: MemoryStore, node: str, name: str, values: NDArray[Any]) -> None:
    row = values[:1].nbytes if values.ndim else 1
    rows = max(1, min(CHUNK_BYTES // max(1, row), values.shape[0] if values.ndim else 1))
    chunks = (rows, *(max(1, length) for length in values.shape[1:])) if values.ndim else ()
    array = zarr.create_array(
        store,
        name=node,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        compressors=[ZstdCodec(level=encoding.LEVEL), Crc32cCodec()],
        fill_value=nodes.fill_value(values.dtype.str),
        dimension_names=[f"{name}_{axis}" for axis in range(values.ndim)],
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},  # or a missing object could not be told from zeros
    )
    array[...] = values


def _get_group(group: Any) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, kind, stored in group.attrs[ENTRIES]:
        if kind == "value":
            result[key] = stored
        elif kind == "group":
            result[key] = _get_group(group[stored])
        else:
            result[key] = np.asarray(group[stored][...])
    return result


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float | np.floating) or bool(np.isfinite(value))


def _array(value: torch.Tensor | NDArray[Any] | float) -> NDArray[Any]:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    tensor = value.detach().cpu()
    # numpy has no bfloat16; float32 holds it exactly.
    values: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return values


def _plain(value: Any) -> Any:
    """Return a value that JSON keeps."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StoreError(
        f"got a {type(value).__name__} in a result, expected a tensor, an array, a mapping or a "
        "plain value",
        fix="let the scan's finalise return tensors",
    )
