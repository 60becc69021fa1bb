"""What pydantic finds wrong, as sentences that name the place and the nearest right thing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    found: dict[Keys, list[ErrorDetails]] = {}
    got: dict[Keys, Any] = {}
    for details in error.errors(include_url=False):
        keys, got[keys] = _descend(details, values)
        found.setdefault(keys, []).append(details)
    # of a union, what is wrong inside the member that was meant says more than that the others
    # expect something else
    inside = {keys[:stop] for keys in found for stop in range(len(keys))}
    return [
        f"{where(*keys)}: {_sentence(details, keys, got[keys], known)}"
        for keys, details in found.items()
        if keys not in inside
    ]


def places(error: ValidationError, values: Any) -> list[Keys]:
    """Return the paths to the wrong values, each once."""
    found = [_descend(details, values)[0] for details in error.errors(include_url=False)]
    return list(dict.fromkeys(found))


def told_of(message: str, values: Any) -> Keys:
    """Return the path to the value that a message speaks of, as far as its words tell.

    For errors of classes that know nothing of run files: ``layer 'conv9' does not exist`` is
    about the value ``conv9``, or about the key, wherever it stands; the longest such word counts.
    A message that begins with a key and a colon speaks of what is under that key.
    """
    lead = message.partition(": ")[0]
    is_said = isinstance(values, Mapping) and lead in values
    start: Keys = (lead,) if is_said else ()
    found = [
        (len(word), len(keys), keys)
        for keys, word in _words(values[lead] if is_said else values, start)
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message)
    ]
    return max(found, key=lambda each: each[:2])[2] if found else start


def _words(values: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Yield names, and texts in quotes, with the path to each."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield (*keys, key), str(key)
            yield from _words(value, (*keys, key))
    elif isinstance(values, list):
        for position, value in enumerate(values):
            yield from _words(value, (*keys, position))
    elif isinstance(values, str) and values:
        yield keys, repr(values)


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
    details: Sequence[ErrorDetails], keys: Keys, value: Any, known: Callable[[Keys], Sequence[str]]
) -> str:
    kinds = {each["type"] for each in details}
    if kinds & {"extra_forbidden", "unexpected_keyword_argument"}:
        if keys[-1] in known(keys[:-1]):
            return f"{str(keys[-1])!r} does not go with the fields beside it"
        return f"unknown field {str(keys[-1])!r}{_hint(str(keys[-1]), known(keys[:-1]))}"
    if "missing" in kinds:
        return f"missing, but {str(keys[-1])!r} is required"
    for each in details:
        if each["type"] in {"value_error", "assertion_error"}:
            return each["msg"].partition(", ")[2]
    # a run file cannot hold such objects, so it need not be told of them
    sayable = [each for each in details if each["type"] != "needs_python_object"] or details
    expected = list(dict.fromkeys(_expected(each) for each in sayable))
    words = [
        word
        for each in details
        if each["type"] == "literal_error"
        for word in re.findall(r"'([^']*)'", each["ctx"]["expected"])
    ]
    hint = _hint(value, words, near_only=True) if isinstance(value, str) else ""
    return f"got {value!r}, expected {' or '.join(expected)}{hint}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "none_required": "null",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a path",
    "string_pattern_mismatch": "lower-case letters, digits and underscores after a first letter",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length}, not {actual_length}",
    "too_long": "at most {max_length}, not {actual_length}",
}


def _expected(details: ErrorDetails) -> str:
    phrase = _EXPECTED.get(details["type"])
    if phrase is None:
        message = details["msg"].removeprefix("Input should be ")
        return message[:1].lower() + message[1:]
    return phrase.format(**details.get("ctx", {}))


def _hint(name: str, known: Sequence[str], *, near_only: bool = False) -> str:
    # imported here: explainers import torch, which takes a second that a valid file need not pay
    from explainers.registry import suggest

    if not known:
        return ""
    hint = suggest(name, known)
    return "" if near_only and not hint.startswith("did you mean") else f"; {hint}"
