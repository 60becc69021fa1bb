"""Files of arrays that entries of explainers name: relative to the run file, as all its paths."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMED = MappingProxyType({"features": "masks", "concepts": "directions", "noise": "file"})
"""Parameter to the key below it, at any depth, whose text is the path of a file."""


def located(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return an entry whose paths of files are absolute, of methods inside it too."""
    return {key: _located(value, base, NAMED.get(key)) for key, value in values.items()}


def of_entries(entries: Mapping[str, Mapping[str, Any]], base: Path) -> tuple[Path, ...]:
    """Return the files that entries name, in order; what results depend on is in them."""
    return tuple(base / path for values in entries.values() for path in _named(values, None))


def _located(value: Any, base: Path, wanted: str | None) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        key: str(base / inner)
        if key == wanted and isinstance(inner, str)
        else _located(inner, base, wanted or NAMED.get(key))
        for key, inner in value.items()
    }


def _named(value: Any, wanted: str | None) -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if key == wanted and isinstance(inner, str):
            yield inner
        else:
            yield from _named(inner, wanted or NAMED.get(key))
