"""Files of masks that entries of explainers name: relative to the run file, as all its paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FEATURES, MASKS = "features", "masks"


def located(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return an entry whose ``features: {masks: path}`` are absolute, of methods inside it too."""
    return {key: _located(value, base, key == FEATURES) for key, value in values.items()}


def of_entries(entries: Mapping[str, Mapping[str, Any]], base: Path) -> tuple[Path, ...]:
    """Return the files that entries name, in order; what results depend on is in them."""
    return tuple(base / path for values in entries.values() for path in _named(values, False))


def _located(value: Any, base: Path, is_features: bool) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        key: str(base / inner)
        if is_features and key == MASKS and isinstance(inner, str)
        else _located(inner, base, is_features or key == FEATURES)
        for key, inner in value.items()
    }


def _named(value: Any, is_features: bool) -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if is_features and key == MASKS and isinstance(inner, str):
            yield inner
        else:
            yield from _named(inner, is_features or key == FEATURES)
