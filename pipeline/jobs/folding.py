"""What a job's events say together: its progress, its end, its exit code."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import events
from pipeline.errors import JobError
from pipeline.gates.verdict import Verdict
from pipeline.run import RunSummary
from pipeline.spray.findings import Finding
from pipeline.task import ShardError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.jobs.client import State

SUMMARY = "summary"
"""Event of the last line: a `RunSummary`."""
STOPPED = 130
KILLED = 128
"""Added to the number of the signal that killed a process."""
_ENDINGS = {0: "done", 4: "gate broken", 5: "done with failures"}
_Value = TypeVar("_Value")


def event_of(record: Mapping[str, Any]) -> events.Event | None:
    """Return the event that `pipeline.events.record` made a record of, or None if there is no such.

    The other side may be of another version: fields that this one does not know are left out.
    """
    kinds = {_kind(each): each for each in events.Event.__subclasses__()}
    kind = kinds.get(record.get("event", ""))
    return None if kind is None else _restored(kind, record)


def summary_of(record: Mapping[str, Any]) -> RunSummary | None:
    """Return the summary that the last line of a run tells, or None if it is none."""
    found = _restored(RunSummary, record)
    if found is None:
        return None
    gates = (_restored(Verdict, each) for each in record.get("gates", ()))
    clusters = (_restored(Finding, each) for each in record.get("clusters", ()))
    values = {each.name: getattr(found, each.name) for each in fields(found)}
    values["gates"] = tuple(each for each in gates if each is not None)
    values["clusters"] = tuple(each for each in clusters if each is not None)
    return RunSummary(**values)


def _kind(kind: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _restored(kind: type[_Value], record: Mapping[str, Any]) -> _Value | None:
    """Return a dataclass of the values that JSON has kept; None if some that it needs are gone."""
    known: Any = fields(kind) if is_dataclass(kind) else ()
    values = {each.name: _value(each, record[each.name]) for each in known if each.name in record}
    needed = [
        each.name for each in known if each.default is MISSING and each.default_factory is MISSING
    ]
    return None if set(needed) - set(values) else kind(**values)


def _value(field: Any, value: Any) -> Any:
    if value is None and field.type == "float":
        return math.nan  # which JSON lacks
    if isinstance(value, list):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    if field.type == "ShardError" and isinstance(value, dict):
        return _restored(ShardError, value)
    return value


def exit_code(state: State, records: Iterable[Mapping[str, Any]]) -> int:
    """Return the exit code of the run in a job that has ended.

    Ray knows it unless the job was stopped, where the run has told it with its last event.

    Raises
    ------
    JobError
        If the run was never started.
    """
    if state.exit_code is not None:
        return state.exit_code if state.exit_code >= 0 else KILLED - state.exit_code
    if state.status == "failed":
        lines = [line for line in state.message.splitlines() if line.strip()]
        raise JobError(
            f"the cluster could not start the run: {lines[-1].strip() if lines else 'no reason'}",
            fix="see that its nodes have xpipe's dependencies, Python of this minor version, and "
            "room; `ray job logs` may say more",
            page="job-did-not-start",
        )
    ended = [each for each in records if each.get("event") == "run_finished"]
    return int(ended[-1]["exit_code"]) or STOPPED if ended else STOPPED


def progress(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far a run is by its events, in the terms of `pipeline.runs.state`.

    Which samples failed is not among the events; their number is.
    """
    found: dict[str, Any] = {
        "path": None,
        "digest": None,
        "n_samples": 0,
        "passes": {},
        "not_finite": {},
    }
    for record in records:
        _fold(found, record)
    passes = list(found["passes"].values())
    n_failed = max((each["failed"] for each in passes), default=0)
    return found | {"passes": passes, "n_failed": n_failed}


def _fold(found: dict[str, Any], record: Mapping[str, Any]) -> None:
    event = event_of(record)
    match event:
        case events.RunStarted():
            found |= {"path": event.path, "digest": event.digest, "n_samples": event.n_samples}
        case events.PassStarted():
            found["passes"][event.pass_name] = {
                "pass": event.pass_name,
                "shards": event.n_shards,
                "done": event.n_done,
                "samples": event.n_samples_done,
                "failed": 0,
                "seconds": 0.0,
            }
        case events.ShardCommitted() | events.ShardSkipped():
            row = found["passes"].get(event.pass_name)
            if row is not None:
                row["done"] += 1
                row["samples"] += event.n_samples
                row["failed"] += event.n_failed
                row["seconds"] += getattr(event, "seconds", 0.0)
        case events.NotFinite():
            found["not_finite"][event.explainer] = event.n_samples


def in_words(state: State, records: Iterable[Mapping[str, Any]]) -> str:
    """Return the state of a job in the words of `pipeline.runs.state`."""
    if state.is_live:
        return {"pending": "submitted"}.get(state.status, state.status)
    try:
        code = exit_code(state, records)
    except JobError:
        return "failed"
    return "interrupted" if code in (130, 143) else _ENDINGS.get(code, "failed")
