"""Graphs that scans found: a JSON document of each, and GraphML where networkx is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from explainers.causal.graphml import graphml
from pipeline import paths
from pipeline.errors import StoreError
from pipeline.sinks.records import Records

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

REPAIR = "run `xpipe verify --repair` on the run, then `xpipe resume`"

Document = dict[str, Any]

_RECORDS = Records(paths.GRAPHS, paths.graph_path)
exists, names, objects, withdraw = (
    _RECORDS.exists,
    _RECORDS.names,
    _RECORDS.objects,
    _RECORDS.withdraw,
)


def write(
    root: str | os.PathLike[str], scan: str, documents: Iterable[tuple[str, Document]]
) -> dict[str, str]:
    """Write graphs durably and return their files and SHA-256; a record of these is written last.

    The same graphs give the same bytes.

    Parameters
    ----------
    root
        The run folder.
    scan
        The scan's entry.
    documents
        The graphs by name, one after the other.

    Raises
    ------
    StoreError
        If a document holds what JSON has not, such as NaN.
    """
    folder = paths.Folder(root)
    withdraw(root, scan)
    written: dict[str, str] = {}
    has_networkx = importlib.util.find_spec("networkx") is not None
    for name, document in documents:
        path = paths.graph_path(scan, f"{name}.json")
        written[path] = folder.write(path, _encoded(document, path))
        if has_networkx:
            path = paths.graph_path(scan, f"{name}.graphml")
            written[path] = folder.write(path, graphml(document))
    _RECORDS.write(root, scan, written)
    return written


def stored(root: str | os.PathLike[str], scan: str) -> StoredGraphs:
    """Return the graphs of a scan, each read when it is indexed.

    Raises
    ------
    StoreError
        If there are none, or their record is damaged.
    """
    if not exists(root, scan):
        known = ", ".join(map(repr, names(root))) or "no scan"
        raise StoreError(
            f"there are no graphs of {scan!r}, but of {known}",
            fix="name an entry of the method causal_graph, and let the run finish: `xpipe resume`",
            page="not-in-run",
        )
    try:
        files = objects(root, scan)
    except ValueError as error:
        raise StoreError(
            f"cannot read {paths.graph_record_path(scan)!r}: {error}", fix=REPAIR, page="integrity"
        ) from error
    found = [path.rpartition("/")[2] for path in files if path.endswith(".json")]
    return StoredGraphs(paths.Folder(root), scan, [name.removesuffix(".json") for name in found])


class StoredGraphs(Mapping[str, Document]):
    """Names, such as classes, to documents that are read when they are indexed.

    Parameters
    ----------
    folder
        The run's.
    scan
        Whose graphs they are.
    names
        What they are called.
    """

    def __init__(self, folder: paths.Folder, scan: str, names: Iterable[str]) -> None:
        self._folder = folder
        self._scan = scan
        self._names = tuple(names)

    def __repr__(self) -> str:
        return f"<graphs of {', '.join(self._names) or 'nothing'}; read when indexed>"

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # that of a mapping would read it

    def __getitem__(self, name: str | int) -> Document:
        if str(name) not in self._names:
            raise KeyError(f"{name!r}; there are: {', '.join(self._names) or 'none'}")
        path = paths.graph_path(self._scan, f"{name}.json")
        try:
            document: Document = json.loads(self._folder.read(path))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"cannot read {path!r}: {error}", fix=REPAIR, page="integrity"
            ) from error
        return document


def _encoded(document: Document, path: str) -> bytes:
    try:
        return (json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{path!r} holds what JSON has not: {error}",
            fix="let the scan's graphs give strings, finite numbers, None, lists and mappings",
        ) from error
