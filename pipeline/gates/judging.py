"""The gates of a comparison: which are asked for, and what becomes of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pipeline import aggregate
from pipeline.complaints import complaints
from pipeline.config import Gate, RelativeGate
from pipeline.errors import ConfigError
from pipeline.gates import absolute, clusters, grammar, relative
from pipeline.gates.names import complaint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.gates.verdict import Verdict
    from pipeline.store import Run


def chosen(run: Run, asked: Sequence[str] | None = None) -> tuple[Gate, ...]:
    """Return the gates that a comparison judges.

    Parameters
    ----------
    run
        The current one: the relative gates of its run file, where none are asked for.
    asked
        Gates as text, in YAML as in a run file, or names of YAML files: of a list of gates, or of
        a mapping with the key ``gates``.

    Raises
    ------
    ConfigError
        If one is none, or about something that the run does not have.
    """
    if asked is None:
        return tuple(gate for gate in run.config.gates if not isinstance(gate, str))
    metrics = {*run.config.metrics, *(metric.name for metric in aggregate.judged(run))}
    found = tuple(gate for text in asked for gate in _read(text))
    for gate in found:
        said = complaint(gate, metrics, run.config.explainers, run.spray)
        if said:
            written = gate if isinstance(gate, str) else relative.text(gate)
            raise ConfigError(
                f"--gate {written}: {said}", fix="name what both runs have", page="gate"
            )
    return found


def judge(gates: Sequence[Gate], previous: Run, current: Run) -> tuple[Verdict, ...]:
    """Judge gates of both kinds, in the order of kinds: bounds, then changes.

    Raises
    ------
    IncomparableError, ConfigError
        As `relative.judge`.
    """
    bounds = [grammar.parse(gate) for gate in gates if isinstance(gate, str)]
    changes = [gate for gate in gates if isinstance(gate, RelativeGate)]
    found: tuple[Verdict, ...] = ()
    if bounds:
        rows = aggregate.aggregates(current)
        metrics = aggregate.judged(current)
        asked = (*current.config.metrics, *map(clusters.of, current.config.spray))
        found = absolute.judged(current, bounds, metrics, rows, asked)
    return (*found, *relative.judge(changes, previous, current)) if changes else found


def _read(text: str) -> list[Gate]:
    import yaml

    with contextlib.suppress(ValueError):
        # first: a bound of every explainer is no YAML without quotes
        return [grammar.parse(text).text]
    path = Path(text)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8") if is_file else text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--gate {text!r} is no YAML: {error}", fix="write it as in a run file", page="gate"
        ) from error
    if is_file and isinstance(values, dict) and "gates" in values:
        values = values["gates"]
    listed = values if is_file and isinstance(values, list) else [values]
    return [_validated(value, text) for value in listed]


def _validated(value: Any, text: str) -> Gate:
    adapter: TypeAdapter[Gate] = TypeAdapter(Gate)
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        found = complaints(error, value, lambda *keys: _place(text, keys), _fields)
        raise ConfigError("\n".join(found), fix="write it as in a run file", page="gate") from error


def _place(text: str, keys: tuple[str | int, ...]) -> str:
    return " ".join(["--gate", text, ".".join(map(str, keys))]).rstrip()


def _fields(_: tuple[str | int, ...]) -> list[str]:
    return list(RelativeGate.model_fields)
