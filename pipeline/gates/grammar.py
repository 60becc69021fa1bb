"""How a gate is written: ``lrp.pixel_flipping.auc <= 0.35``."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

EVERY = "*"
"""In place of an explainer: each that the metric scores, but for the controls."""
CLUSTERS, CONFIRMED = "spray", "clever_hans"
"""In place of a metric and a column: the spectral analysis of an explainer's maps, and how many of
its clusters are confirmed."""
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_GROUP = re.compile(r"all|macro|correct|misclassified|class:\d+")
_GATE = re.compile(r"\s*(?P<name>[^\s<>=]+)\s*(?P<comparison><=|>=|<|>)\s*(?P<limit>\S+)\s*")
_PART = re.compile(r"\*|[a-z0-9][a-z0-9_]*|class:\d+")
_SHARE = re.compile(r"(?P<percent>\d+(\.\d+)?([eE][+-]?\d+)?)\s*%")


@dataclass(frozen=True)
class AbsoluteGate:
    """A bound of a mean, as it was written."""

    text: str
    parts: tuple[str, ...]
    """The words before the comparison."""
    comparison: str
    """``<=``, ``>=``, ``<`` or ``>``."""
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a mean is within the bound; NaN never is."""
        return COMPARISONS[self.comparison](value, self.limit)


@dataclass(frozen=True)
class Place:
    """What a gate is about."""

    explainer: str
    """``*``, an entry, or ``<entry>.<input>``."""
    metric: str
    """Entry of the section metrics."""
    column: str
    """Empty for the metric's headline."""
    group: str
    """As in `pipeline.aggregate.Aggregate`."""


def parse(text: str) -> AbsoluteGate:
    """Return the gate that a text says.

    Raises
    ------
    ValueError
        If it is none.
    """
    found = _GATE.fullmatch(text)
    parts = tuple(found["name"].split(".")) if found else ()
    if not found or len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(
            f"got {text!r}, expected a gate such as 'lrp.pixel_flipping.auc <= 0.35': "
            "<explainer>.<metric>.<column>, <=, >=, < or >, and a number"
        )
    try:
        limit = float(found["limit"])
    except ValueError:
        limit = float("nan")
    if limit - limit != 0:
        raise ValueError(f"got the limit {found['limit']!r} in {text!r}, expected a number")
    return AbsoluteGate(text, parts, found["comparison"], limit)


def place(gate: AbsoluteGate, metrics: Collection[str]) -> Place:
    """Return what a gate is about, where these are the run's metrics.

    The explainer ends where the first metric's name comes: maps of several inputs have a dot in
    their names. Where none comes, the second word was meant.
    """
    known = (k for k, part in enumerate(gate.parts) if k and (part in metrics or part == CLUSTERS))
    at = next(known, 1)
    rest = gate.parts[at + 1 :]
    group = rest[-1] if rest and _GROUP.fullmatch(rest[-1]) else ""
    column = ".".join(rest[: len(rest) - bool(group)])
    return Place(".".join(gate.parts[:at]), gate.parts[at], column, group or "all")


def drop(value: float | str) -> tuple[float, bool]:
    """Return how much worse a score may be, and whether that is a share of what it was.

    Raises
    ------
    ValueError
        If it is neither a number from zero on nor a share such as ``5%``.
    """
    share = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if share:
        return float(share["percent"]) / 100, True
    if isinstance(value, str) or not 0 <= value < float("inf"):
        raise ValueError(f"got {value!r}, expected a number from 0 on, or a share such as '5%'")
    return float(value), False
