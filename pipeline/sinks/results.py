"""Finalised results of scans: nested mappings of arrays as a Zarr hierarchy each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import zarr

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.sinks import nodes
from pipeline.sinks.records import Records
from pipeline.sinks.result_writer import ResultWriter, unnamed, unsaid
from pipeline.sinks.stored_result import StoredResult

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from explainers.base import Result
    from pipeline.sinks.result_writer import Attributes, Axes

PROVENANCE = "provenance"
"""Attribute of the root: what the result was made from, and by what."""

OBJECTS_AT_ONCE = 4
"""Objects that are written together."""

_RECORDS = Records(paths.SCANS, paths.result_path)
exists, names, objects, withdraw = (
    _RECORDS.exists,
    _RECORDS.names,
    _RECORDS.objects,
    _RECORDS.withdraw,
)


def write(
    root: str | os.PathLike[str],
    scan: str,
    result: Result,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Write a result durably and return its objects and their SHA-256.

    Parameters
    ----------
    root
        The run folder.
    scan
        The scan's name.
    result
        Names (or integers) to tensors, arrays, plain values, or further such mappings.
    provenance
        Where it comes from, plain values only; an attribute of the root.
    """
    return write_parts(root, scan, [result], provenance)


def write_parts(
    root: str | os.PathLike[str],
    scan: str,
    parts: Iterable[Result],
    provenance: Mapping[str, Any] | None = None,
    axes: Axes = unnamed,
    attributes: Attributes = unsaid,
) -> dict[str, str]:
    """Write the union of results, each of which is on the disk before the next one is asked for.

    A record of the digests is written last; without it there is no result, whatever lies there.

    Parameters
    ----------
    root, scan, provenance
        See `write`.
    parts
        The results.
    axes
        Names the axes of arrays, see `explainers.base.Scan.axes`.
    attributes
        Says something of arrays, see `explainers.base.Scan.attributes`.
    """
    folder = paths.Folder(root)
    withdraw(root, scan)
    with ThreadPoolExecutor(OBJECTS_AT_ONCE) as executor:
        writer = ResultWriter(folder, paths.result_path(scan), executor, axes, attributes)
        for part in parts:
            writer.add(part)
        written = writer.close({PROVENANCE: dict(provenance)} if provenance else {})
    _RECORDS.write(root, scan, written)
    return written


def stored(root: str | os.PathLike[str], scan: str) -> StoredResult:
    """Return a result whose arrays are read when they are indexed.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    folder = paths.Folder(root)
    if not exists(root, scan):
        raise StoreError(
            f"there is no result of {scan!r}",
            fix="let the run finish: `xpipe resume`",
            page="not-in-run",
        )
    store = nodes.readable(folder, paths.result_path(scan))
    try:
        return StoredResult(zarr.open_group(store, mode="r"), scan)
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(
            f"cannot read the result of {scan!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
            page="integrity",
        ) from error


def read(root: str | os.PathLike[str], scan: str) -> dict[Any, Any]:
    """Return a result as a whole, with its keys in order and numpy arrays for tensors.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    return stored(root, scan).load()


def provenance(root: str | os.PathLike[str], scan: str) -> dict[str, Any]:
    """Return what a result was made from; empty if it does not say."""
    return dict(stored(root, scan).attributes.get(PROVENANCE, {}))
