"""How classes are called on the page, and how samples are read back."""

from __future__ import annotations

import functools
import logging
import weakref
from typing import TYPE_CHECKING, Any

from pipeline.data import open_source
from pipeline.errors import XpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from pipeline.data.source import Source
    from pipeline.plan import Plan
    from pipeline.store import Run

logger = logging.getLogger(__name__)
_SOURCES: MutableMapping[Run, Source | None] = weakref.WeakKeyDictionary()
"""Opened once for all sections: what is missing is said once."""


def source_of(run: Run) -> Source | None:
    """Return the source of a run's samples; None if it cannot be opened here any more."""
    if run not in _SOURCES:
        _SOURCES[run] = _opened(run)
    return _SOURCES[run]


def _opened(run: Run) -> Source | None:
    try:
        source = open_source(run.config.data, run.config.base)
        # sources are lazy: what is gone is found out when it is first asked for
        _ = source.class_names
    except (XpipeError, OSError, ImportError) as error:
        logger.warning(
            "the page shows no inputs: the data source cannot be opened%s: %s",
            "" if run.config.base.is_dir() else " (--base FOLDER names where it is now)",
            error,
        )
        return None
    return source


def class_names(run: Run) -> Callable[[int], str]:
    """Return what names a class: the source's word for it, else its index."""
    source = source_of(run)
    return functools.partial(_name, source.class_names if source else None)


def target_in_words(spec: Any) -> str:
    """Return a target of a plan as a reader says it."""
    if isinstance(spec, dict) and "layer" in spec:
        unit = spec["unit"]
        place = f"unit {unit}" if isinstance(unit, int) else f"unit ({', '.join(map(str, unit))})"
        return f"{place} of {spec['layer']}"
    if isinstance(spec, dict):
        return "weighted outputs"
    words = {
        "predicted": "the predicted class",
        "label": "the true class",
        "runner_up": "the runner-up",
    }
    return words.get(str(spec), f"class {spec}")


def first_of_several(plan: Plan) -> str:
    """Return the first target in words; nothing where there is only one."""
    return target_in_words(plan.targets[0]) if len(plan.targets) > 1 else ""


def _name(names: tuple[str, ...] | None, index: int) -> str:
    if index < 0:
        return "unknown"
    return names[index] if names is not None and index < len(names) else str(index)
