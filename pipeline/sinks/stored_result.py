"""A stored result as a nested mapping whose arrays are read when they are indexed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.sinks.result_writer import ENTRIES, STACKED

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray


class StoredResult(Mapping[Any, Any]):
    """A group of a result: names (or integers) to arrays, plain values and further mappings.

    Parameters
    ----------
    group
        Where it is.
    scan
        Whose result it belongs to.
    row
        Of the arrays' first axis, where it is one of a stack.
    """

    def __init__(self, group: zarr.Group, scan: str, row: int | None = None) -> None:
        self._group = group
        self._scan = scan
        self._row = row
        listed: Any = group.attrs[ENTRIES]
        self._entries: dict[Any, tuple[str, Any]] = {
            key: (kind, found) for key, kind, found in listed
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._entries))})"

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries  # that of a mapping would read the value

    def __getitem__(self, key: Any) -> Any:
        kind, found = self._entry(key)
        if kind == "value":
            return found
        if kind == "stack":
            return StoredStack(self._node(found), self._scan)
        if kind == "group":
            return StoredResult(self._node(found), self._scan, self._row)
        return self.part(key, ...)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Of the group."""
        return dict(self._group.attrs)

    def is_mapping(self, key: Any) -> bool:
        """Whether there is a further mapping under a key."""
        return self._entry(key)[0] in ("group", "stack")

    def shape(self, key: Any) -> tuple[int, ...]:
        """Return the shape of what is under a key, without reading it; of a plain value ()."""
        kind, found = self._entry(key)
        if kind != "array":
            return ()
        shape = tuple(self._node(found).shape)
        return shape if self._row is None else shape[1:]

    def dtype(self, key: Any) -> str:
        """Return the type of an array; empty for all else."""
        kind, found = self._entry(key)
        return str(self._node(found).dtype) if kind == "array" else ""

    def part(self, key: Any, index: Any) -> NDArray[Any]:
        """Return the part of an array that a basic index (integers, slices, ``...``) names.

        Only the chunks that it lies in are read.

        Raises
        ------
        StoreError
            If the array cannot be read.
        """
        kind, found = self._entry(key)
        if kind != "array":
            raise KeyError(f"{key!r} is a {kind}, expected an array")
        whole = index if isinstance(index, tuple) else (index,)
        try:
            array = self._node(found)
            return np.asarray(array[whole if self._row is None else (self._row, *whole)])
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error

    def load(self) -> dict[Any, Any]:
        """Return everything, read."""
        return {
            key: value.load() if isinstance(value, StoredResult | StoredStack) else value
            for key, value in self.items()
        }

    def leaves(self, above: str = "") -> Iterator[tuple[str, tuple[int, ...], str]]:
        """Yield path, shape and type of every array below; classes of a stack are an axis."""
        for key, (kind, found) in self._entries.items():
            path = f"{above}/{key}" if above else str(key)
            if kind == "array":
                yield path, self.shape(key), self.dtype(key)
            elif kind in ("group", "stack"):
                row = self._row if kind == "group" else None
                yield from StoredResult(self._node(found), self._scan, row).leaves(path)

    def _entry(self, key: Any) -> tuple[str, Any]:
        if key not in self._entries:
            shown = ", ".join(repr(each) for each in list(self._entries)[:20])
            raise KeyError(f"{key!r}; there are: {shown or 'none'}")
        return self._entries[key]

    def _node(self, name: str) -> Any:
        try:
            return self._group[name]
        except (OSError, KeyError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(
            f"cannot read the result of {self._scan!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe resume`",
            page="integrity",
        )


class StoredStack(Mapping[int, StoredResult]):
    """Integers to mappings that are alike, stored as one; see `result_writer`.

    Parameters
    ----------
    group
        Where it is.
    scan
        Whose result it belongs to.
    """

    def __init__(self, group: zarr.Group, scan: str) -> None:
        self._scan = scan
        self._group = group
        keys: Any = group.attrs[STACKED]
        self._rows = {int(key): row for row, key in enumerate(keys)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self._rows))})"

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __getitem__(self, key: int) -> StoredResult:
        if key not in self._rows:
            raise KeyError(f"{key!r}; there are {len(self._rows)} of {min(self._rows)} and above")
        return StoredResult(self._group, self._scan, self._rows[key])

    @property
    def together(self) -> StoredResult:
        """All of them, with a first axis in the order of the keys."""
        return StoredResult(self._group, self._scan)

    def load(self) -> dict[int, Any]:
        """Return everything, read."""
        whole = self.together.load()
        return {key: _row(whole, row) for key, row in self._rows.items()}


def _row(values: Mapping[Any, Any], row: int) -> dict[Any, Any]:
    return {
        key: _row(value, row) if isinstance(value, dict) else value[row]
        for key, value in values.items()
    }
