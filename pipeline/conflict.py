"""A folder holds one run: another one is refused, and what differs is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from pipeline import paths
from pipeline.config import RunConfig
from pipeline.errors import RunConflictError
from pipeline.store import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import PurePath

    from pipeline.plan import Plan
    from pipeline.store import Run

INPUTS = {
    "manifest_digest": "the samples (files, order or labels)",
    "weights_digest": "the weights",
    "code_digest": "the python files or arrays that the run file names",
}
MISSING = object()
"""Stands for a field that is not given."""


def refuse_other_run(path: PurePath, config: RunConfig, plan: Plan) -> None:
    """Refuse a folder that holds a run whose results would be others.

    Raises
    ------
    RunConflictError
        If it does; the message names every difference.
    """
    if not paths.Folder(path).exists(paths.PLAN):
        return
    present = open_run(str(path))
    if present.plan.digest == plan.digest:
        return
    found = changes(present, config)
    found += [
        f"{meaning} changed"
        for field, meaning in INPUTS.items()
        if getattr(present.plan, field) != getattr(plan, field)
    ]
    if not found:
        found = [f"{paths.RUN_FILE} in the folder, which was edited after the run began"]
    listed = "\n".join(f"  {line}" for line in found)
    raise RunConflictError(
        f"{path} holds another run, which differs in:\n{listed}",
        fix="give another output.path, undo the change, or remove the folder",
        page="another-run",
    )


def changes(run: Run, config: RunConfig) -> list[str]:
    """Return how a configuration differs from that with which a run was begun."""
    # older folders have only the run file, which may have been edited
    began = run.environment.get("config") or run.config.canonical()
    return list(differences(_filled(began), _filled(config.canonical())))


def _filled(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the defaults of sections that its canonical form leaves out."""
    found = dict(canonical)
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if name in found and isinstance(kind, type) and issubclass(kind, BaseModel):
            found[name] = {**_defaults(kind), **found[name]}
    return found


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    return {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in section.model_fields.items()
        if not field.is_required()
    }


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield ``name: value there, value here`` for every field that differs."""
    for name in dict.fromkeys((*before, *after)):
        there, here = before.get(name, MISSING), after.get(name, MISSING)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            yield from differences(there, here, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {_said(there)} there, {_said(here)} here"


def _said(value: Any) -> str:
    return "not given" if value is MISSING else repr(value)
