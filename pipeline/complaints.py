"""What pydantic finds wrong, as sentences that name the place and the nearest right thing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Keys = tuple[str | int, ...]


def complaints(
    error: ValidationError,
    values: Any,
    where: Callable[..., str],
    known: Callable[[Keys], Sequence[str]],
) -> list[str]:
    """Return one sentence per wrong value: ``place path: what; did you mean ...?``.

    The members of a union complain separately; here they speak with one voice.

    Parameters
    ----------
    error
        What pydantic raised.
    values
        What was validated.
    where
        Keys to the place that is shown, as `RunFile.where`.
    known
        Keys of a mapping to the fields that it can have.
    """
    found: dict[Keys, list[str]] = {}
    for details in error.errors(include_url=False):
        keys, value = _descend(details, values)
        sentence = _sentence(details, keys, value, known)
        said = found.setdefault(keys, [])
        if sentence not in said:
            said.append(sentence)
    return [f"{where(*keys)}: {_join(said)}" for keys, said in found.items()]


def _descend(details: ErrorDetails, values: Any) -> tuple[Keys, Any]:
    """Follow pydantic's location through the values, leaving out its names of union members."""
    keys: list[str | int] = []
    for key in details["loc"]:
        is_index = isinstance(values, list) and isinstance(key, int) and key < len(values)
        if not is_index and not (isinstance(values, Mapping) and key in values):
            continue
        values = values[key]
        keys.append(key)
    if details["type"] == "missing":
        keys.append(details["loc"][-1])
    return tuple(keys), values


def _sentence(
    details: ErrorDetails, keys: Keys, value: Any, known: Callable[[Keys], Sequence[str]]
) -> str:
    kind, message = details["type"], details["msg"]
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"unknown field {keys[-1]!r}{_hint(str(keys[-1]), known(keys[:-1]))}"
    if kind == "missing":
        return f"missing; {str(keys[-1])!r} is required"
    if kind in {"value_error", "assertion_error"}:
        return message.partition(", ")[2]
    message = message.replace("Input should", "should")
    message = message[:1].lower() + message[1:]
    hint = ""
    if kind == "literal_error" and isinstance(value, str):
        hint = _hint(value, re.findall(r"'([^']*)'", details["ctx"]["expected"]), near_only=True)
    return f"got {value!r}, {message}{hint}"


def _join(sentences: Sequence[str]) -> str:
    """Return the sentences as one: what a value should be is joined by ``or``."""
    first, *rest = sentences
    prefix = first.partition(", should ")[0] + ", should "
    if rest and all(sentence.startswith(prefix) for sentence in sentences):
        return f"{first} or {' or '.join(s.removeprefix(prefix) for s in rest)}"
    return "; ".join(sentences)


def _hint(name: str, known: Sequence[str], *, near_only: bool = False) -> str:
    # imported here: explainers import torch, which takes a second that a valid file need not pay
    from explainers.registry import suggest

    if not known:
        return ""
    hint = suggest(name, known)
    return "" if near_only and not hint.startswith("did you mean") else f"; {hint}"
