"""Writes a result part by part; only its structure, and one array at a time, is in memory.

Each mapping is a Zarr group. A mapping from integers (classes) to mappings that are alike is a
stack: one array for all of them, with a first axis in the order of the integers, because a
thousand classes of fifty layers would be a million files. Where that axis has a name, there is an
array of this name beside them, which holds the integers: a coordinate, and no part of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from pipeline.errors import StoreError
from pipeline.sinks import encoding, nodes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor, Future

    from numpy.typing import NDArray

    from pipeline.paths import Folder

ENTRIES = "entries"
"""Attribute of a group: its keys in order, each as [key, kind, node name or value]."""
STACKED = "stacked"
"""Attribute of a stack: its keys, in the order of its arrays' first axis."""

Axes = Callable[[Sequence[Any], int, Collection[Any]], Sequence[str]]
"""Names axes, see `explainers.base.Scan.axes`."""

Attributes = Callable[[Sequence[Any]], Mapping[str, Any]]
"""Says something of arrays, see `explainers.base.Scan.attributes`."""

CHUNK_BYTES = 16 << 20
"""Larger arrays are cut along their first axes, so that a part can be read without the rest."""


def unnamed(path: Sequence[Any], n_axes: int, beside: Collection[Any]) -> Sequence[str]:
    """Return no names."""
    return ()


def unsaid(path: Sequence[Any]) -> Mapping[str, Any]:
    """Return no attributes."""
    return {}


@dataclass(frozen=True)
class _Pile:
    """Arrays of one shape that are stored as one."""

    parts: list[Any]


@dataclass
class _Group:
    """What is known of a group so far."""

    entries: dict[Any, list[Any]] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """Where something of a result is."""

    keys: tuple[Any, ...] = ()
    node: str = ""
    over: tuple[str, ...] = ()
    """Names of the axis that keys of a stack have become."""

    def below(self, key: Any) -> _Place:
        """Return the place under a key."""
        name = quote(str(key), safe=" #:()[]=,")
        return _Place((*self.keys, key), f"{self.node}/{name}".lstrip("/"), self.over)


class ResultWriter:
    """Writes one result.

    Parameters
    ----------
    folder
        The run's.
    base
        The hierarchy in it, which is empty.
    executor
        Writes objects beside each other: most of the time they wait for the disk.
    axes
        Names the axes of arrays; those that get no names have that of the array with a number.
    attributes
        Says something of arrays.
    """

    def __init__(
        self,
        folder: Folder,
        base: str,
        executor: Executor,
        axes: Axes = unnamed,
        attributes: Attributes = unsaid,
    ) -> None:
        self._folder = folder
        self._base = base
        self._executor = executor
        self._axes = axes
        self._attributes = attributes
        self._pending: list[Future[str]] = []
        self._root = _Group()
        self._arrays: dict[str, bytes] = {}
        self._objects: dict[str, dict[str, Future[str]]] = {}

    def add(self, part: Mapping[Any, Any]) -> None:
        """Write the arrays of a part; mappings of one name are joined, other values replaced.

        Raises
        ------
        StoreError
            If it holds what cannot be stored.
        """
        self._put(self._root, _Place(), part)
        self._settle()

    def close(self, attributes: Mapping[str, Any]) -> dict[str, str]:
        """Write the metadata, and return all objects and their SHA-256."""
        documents = dict(self._arrays)
        self._describe(documents, "", self._root, attributes)
        documents[""] = nodes.consolidated(documents.pop(""), documents)
        for node, document in documents.items():
            place = self._objects.setdefault(node, {})
            place |= self._write(self._path(node, nodes.DOCUMENT), document)
        self._settle()
        every = [each for of_node in self._objects.values() for each in of_node.items()]
        return {path: digest.result() for path, digest in every}

    def _write(self, path: str, content: bytes) -> dict[str, Future[str]]:
        self._pending.append(self._executor.submit(self._folder.write, path, content))
        return {path: self._pending[-1]}

    def _settle(self) -> None:
        """Wait until everything is on the disk."""
        pending, self._pending = self._pending, []
        wait(pending)
        for each in pending:
            each.result()

    def _describe(
        self,
        documents: dict[str, bytes],
        node: str,
        group: _Group,
        attributes: Mapping[str, Any],
    ) -> None:
        own = {ENTRIES: list(group.entries.values()), **group.attributes, **attributes}
        documents[node] = nodes.group_document(own)
        for name, below in group.groups.items():
            self._describe(documents, f"{node}/{name}".lstrip("/"), below, {})

    def _put(self, group: _Group, place: _Place, part: Mapping[Any, Any]) -> None:
        for key, value in part.items():
            at = place.below(key)
            path, name = at.node, at.node.rpartition("/")[2]
            stack = _stack(value)
            kind = "stack" if stack is not None else _kind(value)
            self._make_room(group, key, kind, path)
            group.entries[key] = [_plain(key), kind, _plain(value) if kind == "value" else name]
            if kind == "array":
                array = _array(value)
                names = self._names(at, array.ndim, part)
                self._put_array(path, array, names, self._attributes(at.keys))
            elif kind in ("group", "stack"):
                below = group.groups.setdefault(name, _Group())
                if stack is not None:
                    below.attributes[STACKED] = [int(each) for each in value]
                    at = replace(at, over=tuple(self._axes(at.keys, 1, part.keys())))
                    self._put_coordinate(at, value, stack)
                self._put(below, at, value if stack is None else stack)

    def _put_coordinate(self, at: _Place, keys: Iterable[int], stack: Mapping[Any, Any]) -> None:
        """Write the keys of a stack, if their axis has a name that nothing else in it has."""
        for name in at.over:
            if name not in stack:
                path = at.below(name).node
                self._forget(path)
                self._put_array(path, np.array([int(key) for key in keys]), (name,))

    def _names(self, at: _Place, n_axes: int, part: Mapping[Any, Any]) -> Sequence[str]:
        given = (*at.over, *self._axes(at.keys, n_axes - len(at.over), part.keys()))
        if len(given) == n_axes:
            return given
        name = at.node.rpartition("/")[2]
        return [f"{name}_{axis}" for axis in range(n_axes)]

    def _make_room(self, group: _Group, key: Any, kind: str, path: str) -> None:
        """Forget what is replaced."""
        known = group.entries.get(key, [None, kind])[1]
        if known == "array":
            self._forget(path)
        is_joined = known == kind and (kind != "stack" or key not in group.entries)
        if "stack" in (known, kind) and not is_joined:
            raise StoreError(
                f"{path!r} of a result is in several of its parts, but is one stack of classes",
                fix="let the scan's groups keep all classes of a layer together",
            )
        if known == "group" and kind != "group":
            raise StoreError(
                f"{path!r} of a result is a mapping in one part and a value in another",
                fix="let the scan's finalise give the same form for every group",
            )

    def _forget(self, path: str) -> None:
        """Remove an array, if it has been written."""
        if path in self._objects:
            self._settle()
            del self._arrays[path]
            for stored in self._objects.pop(path):
                self._folder.remove(stored)

    def _put_array(
        self,
        node: str,
        values: NDArray[Any],
        names: Sequence[str],
        attributes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        kept: dict[str, Any] = {}
        array = zarr.create_array(
            MemoryStore(kept),
            shape=values.shape,
            dtype=values.dtype,
            chunks=_chunks(values.shape, values.dtype.itemsize),
            compressors=[ZstdCodec(level=encoding.LEVEL), Crc32cCodec()],
            fill_value=nodes.fill_value(values.dtype.str),
            dimension_names=names,
            attributes=dict(attributes),
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},  # or a missing object looked like zeros
        )
        array[...] = values
        self._arrays[node] = bytes(kept.pop(nodes.DOCUMENT).to_bytes())
        self._objects[node] = {}
        for key in sorted(kept):
            content = bytes(kept[key].to_bytes())
            self._objects[node] |= self._write(self._path(node, key), content)

    def _path(self, node: str, key: str) -> str:
        return "/".join(part for part in (self._base, node, key) if part)


def _chunks(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return chunks of at most `CHUNK_BYTES`, cut along as few of the first axes as possible."""
    chunks = [max(1, length) for length in shape]
    for axis in range(len(chunks)):
        row = itemsize * math.prod(chunks[axis + 1 :])
        chunks[axis] = max(1, min(CHUNK_BYTES // row, chunks[axis]))
        if row <= CHUNK_BYTES:
            break
    return tuple(chunks)


def _stack(value: Any) -> dict[Any, Any] | None:
    """Return a mapping from integers to mappings as one mapping of piles, if they are alike."""
    if not isinstance(value, Mapping) or len(value) < 2:
        return None
    is_by_number = all(isinstance(key, int | np.integer) for key in value)
    values = list(value.values())
    if not is_by_number or not all(isinstance(each, Mapping) and each for each in values):
        return None
    return _piled(values)


def _piled(values: Sequence[Mapping[Any, Any]]) -> dict[Any, Any] | None:
    piled: dict[Any, Any] = {}
    if len({tuple(each) for each in values}) > 1:
        return None
    for key in values[0]:
        parts = [each[key] for each in values]
        if all(isinstance(part, Mapping) for part in parts):
            piled[key] = _piled(parts)
        else:
            forms = {_form(part) for part in parts}
            piled[key] = _Pile(parts) if len(forms) == 1 and None not in forms else None
        if piled[key] is None:
            return None
    return piled


def _form(part: Any) -> tuple[Any, ...] | None:
    if not isinstance(part, torch.Tensor | np.ndarray):
        return None
    return (*part.shape, part.dtype)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "group"
    # JSON has no NaN and no infinity; an array of no dimensions has.
    is_array = isinstance(value, torch.Tensor | np.ndarray | _Pile) or not _is_finite(value)
    return "array" if is_array else "value"


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float | np.floating) or bool(np.isfinite(value))


def _array(value: torch.Tensor | NDArray[Any] | float | _Pile) -> NDArray[Any]:
    if isinstance(value, _Pile):
        return np.stack([_array(part) for part in value.parts])
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
