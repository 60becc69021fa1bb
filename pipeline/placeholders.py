"""What a run file leaves open until it is read: ``{{ date }}`` in the places that it names."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

Keys = tuple[str | int, ...]

NAMES = {
    "date": "day of the occurrence, or of the start: 2026-11-23",
    "time": "hour and minute: 0230",
    "utc": "date and time in UTC, which no change of clocks repeats: 20261123T0130Z",
}
"""What may be written between ``{{`` and ``}}``. No colons: they are no part of file names
everywhere."""

OPEN = (("output", "path"), ("model", "name"), ("model", "weights"), ("data",), ("callbacks",))
"""Where it may be written: what names a place or a version. Parameters of explainers and metrics
are not read for it, as a date there would make every run another one."""

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def names_at(moment: datetime) -> dict[str, str]:
    """Return what each name stands for at a moment that knows its time zone."""
    return {
        "date": moment.strftime("%Y-%m-%d"),
        "time": moment.strftime("%H%M"),
        "utc": moment.astimezone(UTC).strftime("%Y%m%dT%H%MZ"),
    }


def fill(values: dict[str, Any], moment: datetime, where: Callable[..., str]) -> dict[str, Any]:
    """Return a document with its placeholders filled in.

    Nothing is evaluated: a name is looked up, and that is all.

    Parameters
    ----------
    values
        The document.
    moment
        What they stand for, in the time zone whose date is meant.
    where
        Gives the place of the value at some keys, for messages.

    Raises
    ------
    ConfigError
        If a name is unknown or a placeholder is not closed.
    """
    filled: dict[str, Any] = values
    names = names_at(moment)
    for keys in OPEN:
        filled = _at(filled, keys, (), names, where)
    return filled


def _at(
    value: Any, keys: Keys, above: Keys, names: Mapping[str, str], where: Callable[..., str]
) -> Any:
    """Return a copy of the value in which what is at `keys` is filled in."""
    if not keys:
        return _filled(value, above, names, where)
    if not isinstance(value, dict) or keys[0] not in value:
        return value
    inner = _at(value[keys[0]], keys[1:], (*above, keys[0]), names, where)
    return {**value, keys[0]: inner}


def _filled(value: Any, keys: Keys, names: Mapping[str, str], where: Callable[..., str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, (*keys, key), names, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, (*keys, at), names, where) for at, each in enumerate(value)]
    if not isinstance(value, str) or "{{" not in value:
        return value
    text = _PLACEHOLDER.sub(lambda found: _named(found[1].strip(), keys, names, where), value)
    if "{{" in text:
        raise ConfigError(
            f"{where(*keys)}: {value!r} opens a placeholder with '{{{{' and does not close it",
            fix="write {{ date }}",
            page="placeholder",
        )
    return text


def _named(name: str, keys: Keys, names: Mapping[str, str], where: Callable[..., str]) -> str:
    if name not in names:
        known = ", ".join(f"{{{{ {each} }}}} ({what})" for each, what in NAMES.items())
        raise ConfigError(
            f"{where(*keys)}: {{{{ {name} }}}} stands for nothing",
            fix=f"use {known}",
            page="placeholder",
        )
    return names[name]
