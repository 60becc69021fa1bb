"""The metadata of ``maps.zarr``: whether its parts agree, and how one is mended from another.

Each array has its document, which ledger records vouch for, and a copy of it in the root's. The
root changes as arrays are added, so nothing vouches for it; it has to follow from the rest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.sinks import maps, nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = f"{paths.MAPS}/{nodes.DOCUMENT}"


def document_path(node: str) -> str:
    """Where the document of a group or array is."""
    return f"{paths.MAPS}/{node}/{nodes.DOCUMENT}"


def damaged(folder: paths.Folder) -> dict[str, str]:
    """Return the root and the groups that are not as they were written: path to reason."""
    if not folder.files(paths.MAPS):
        return {}
    found = {
        document_path(group): "it is not the document of a group"
        for group in _groups(folder)
        if _read(folder, document_path(group)) != nodes.group_document()
    }
    content = _read(folder, ROOT)
    if _copies(content) is None or content != _rebuilt(folder, content, _copies(content) or {}):
        found[ROOT] = "it does not follow from the metadata of the arrays"
    return found


def mend(folder: paths.Folder, vouched: Mapping[str, str]) -> set[str]:
    """Write groups and root anew, and arrays from the root's copies, where those are right.

    Parameters
    ----------
    folder
        The run's.
    vouched
        Path to SHA-256 of what ledger records vouch for.

    Returns
    -------
    set of str
        The paths that are right now and were not.
    """
    mended = set(damaged(folder))
    copies = _copies(_read(folder, ROOT)) or {}
    for node, copy in copies.items():
        path, content = document_path(node), nodes.to_bytes(copy)
        is_right = vouched.get(path) == paths.sha256(content)
        if is_right and _read(folder, path) != content:
            folder.write(path, content)
            mended.add(path)
    for group in _groups(folder):
        if _read(folder, document_path(group)) != nodes.group_document():
            folder.write(document_path(group), nodes.group_document())
    if mended:
        folder.write(ROOT, _rebuilt(folder, _read(folder, ROOT), maps.stored(folder)))
    return mended


def _rebuilt(folder: paths.Folder, root: bytes, wanted: Iterable[str]) -> bytes:
    """Return the root's document as it follows from the documents of these nodes."""
    below = {node: _read(folder, document_path(node)) for node in wanted if _is_json(folder, node)}
    attributes = (_json(root) or {}).get("attributes", {})
    coordinates = {node for node in below if "/" not in node and node not in _groups(folder)}
    named = str(attributes.get("coordinates", "")).split()
    if set(named) != coordinates - {"sample"}:
        attributes = attributes | {"coordinates": " ".join(sorted(coordinates - {"sample"}))}
    return nodes.consolidated(nodes.group_document(attributes), below)


def _groups(folder: paths.Folder) -> list[str]:
    """Return the nodes that have others below them; the metadata itself may be damaged."""
    return sorted(maps.groups(maps.stored(folder)))


def _copies(root: bytes) -> dict[str, Any] | None:
    """Return the copies in the root's document; None if it cannot be read."""
    values = _json(root)
    try:
        return None if values is None else dict(values["consolidated_metadata"]["metadata"])
    except (KeyError, TypeError, ValueError):
        return None


def _is_json(folder: paths.Folder, node: str) -> bool:
    return _json(_read(folder, document_path(node))) is not None


def _json(content: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(content)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _read(folder: paths.Folder, path: str) -> bytes:
    try:
        return folder.read(path)
    except FileNotFoundError:
        return b""
