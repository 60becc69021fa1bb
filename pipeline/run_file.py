"""Run files: YAML to plain values, with the place in the file that each value came from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import placeholders
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class RunFile:
    """What a run file says, and where it says it."""

    values: dict[str, Any]
    """The document."""
    places: dict[Keys, str] = field(default_factory=dict, compare=False)
    """``file:line``, or the override, by the path to a value."""

    def where(self, *keys: str | int) -> str:
        """Return the place and the dotted path of a value, or of what is nearest above it."""
        path = ".".join(str(key) for key in keys)
        for stop in range(len(keys), -1, -1):
            place = self.places.get(keys[:stop])
            if place is not None:
                return place if place == f"--set {path}" else f"{place} {path}".rstrip()
        return path


def read(path: Path, overrides: Sequence[str] = (), *, moment: datetime | None = None) -> RunFile:
    """Return the values of a run file with `overrides` (``a.b=value``) applied.

    Parameters
    ----------
    path
        The file.
    overrides
        What to change; may have placeholders, too.
    moment
        What ``{{ date }}`` stands for, in the time zone whose date is meant; now, in that of the
        machine, if not given.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not a YAML mapping, an override does not parse, or a
        placeholder stands for nothing.
    """
    return fill(read_open(path, overrides), moment)


def read_open(path: Path, overrides: Sequence[str] = ()) -> RunFile:
    """Return the values of a run file as `read` does, with its placeholders still in them.

    Raises
    ------
    ConfigError
        As `read`, placeholders apart.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the run file {str(path)!r}: {error}",
            fix="name an existing YAML file; `xpipe init` writes one",
            page="unreadable-run-file",
        ) from error
    return override(parse(text, str(path)), overrides)


def fill(run_file: RunFile, moment: datetime | None = None) -> RunFile:
    """Return a copy in which placeholders are what they stand for at a moment.

    Raises
    ------
    ConfigError
        If one stands for nothing.
    """
    at = moment or datetime.now().astimezone()
    return RunFile(placeholders.fill(run_file.values, at, run_file.where), run_file.places)


def parse(text: str, file: str) -> RunFile:
    """Return the values of a YAML text; `file` names it in messages.

    Raises
    ------
    ConfigError
        If the text is not YAML, not a mapping, or names a key twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        places: dict[Keys, str] = {}
        values = {} if node is None else _values(loader, node, (), file, places)
    except yaml.YAMLError as error:
        raise ConfigError(
            _syntax_error(error, file),
            fix="mend the YAML; values with ': ' or '#' need quotes",
            page="unreadable-run-file",
        ) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError(
            f"{file}:1: got {type(values).__name__}, expected a mapping of fields to values",
            fix="start with `name: ...`, `model: ...`, `data: ...`, `explainers: ...`",
            page="unreadable-run-file",
        )
    return RunFile(values, places)


def override(run_file: RunFile, overrides: Sequence[str]) -> RunFile:
    """Return a copy in which every ``a.b=value`` is set; values are YAML.

    Raises
    ------
    ConfigError
        If an override has no ``=``, its value is not YAML, or its path runs through a value
        that is not a mapping.
    """
    values, places = run_file.values, dict(run_file.places)
    for text in overrides:
        dotted, equals, written = text.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            raise ConfigError(
                f"--set {text}: expected path=value",
                fix="write for example --set seed=1",
                page="unreadable-run-file",
            )
        given = parse(f"value: {written}\n", f"--set {text}").values.get("value")
        values = _set(values, keys, given, f"--set {text}")
        places = {path: place for path, place in places.items() if path[: len(keys)] != keys}
        places[keys] = f"--set {dotted}"
        for stop in range(1, len(keys)):
            places.setdefault(keys[:stop], f"--set {dotted}")
    return RunFile(values, places)


def _set(values: dict[str, Any], keys: Sequence[str], value: Any, text: str) -> dict[str, Any]:
    first, *rest = keys
    if not rest:
        return {**values, first: value}
    inner = values.get(first)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise ConfigError(
            f"{text}: {first!r} is {inner!r}, which has no field {rest[0]!r}",
            fix=f"set {first!r} as a whole, or write it as a mapping in the run file",
            page="unreadable-run-file",
        )
    return {**values, first: _set(inner, rest, value, text)}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without code, except that ``1e-6`` is a number as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def _values(
    loader: _Loader, node: yaml.Node, keys: Keys, file: str, places: dict[Keys, str]
) -> Any:
    places[keys] = f"{file}:{node.start_mark.line + 1}" if not file.startswith("--set") else file
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN:
        raise yaml.MarkedYAMLError(
            problem=f"the tag {node.tag!r} is not plain YAML", problem_mark=node.start_mark
        )
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            if key in found:
                raise yaml.MarkedYAMLError(
                    problem=f"{key!r} is given twice", problem_mark=key_node.start_mark
                )
            found[key] = _values(loader, value_node, (*keys, key), file, places)
            if not file.startswith("--set"):
                places[(*keys, key)] = f"{file}:{key_node.start_mark.line + 1}"
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _values(loader, item, (*keys, position), file, places)
            for position, item in enumerate(node.value)
        ]
    return loader.construct_object(node)


def _syntax_error(error: yaml.YAMLError, file: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None or file.startswith("--set"):
        return f"{file}: {problem}"
    return f"{file}:{mark.line + 1}: {problem}"
