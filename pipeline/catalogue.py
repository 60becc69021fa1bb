"""What explainers and metrics there are, as rows of a table and in full."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = ("name", "kind", "passes", "what it is")
METRIC_COLUMNS = ("name", "family", "better", "compares", "needs", "what it is")


def explainers() -> list[dict[str, Any]]:
    """Return a row per explainer: see `COLUMNS`."""
    from explainers import available

    return [
        {
            "name": entry["name"],
            "kind": entry["kind"],
            "passes": passes(entry["cost"]),
            "what it is": entry["summary"],
        }
        for entry in available()
    ]


def metrics() -> list[dict[str, Any]]:
    """Return a row per metric: see `METRIC_COLUMNS`."""
    from pipeline.metrics import available

    return [
        {
            "name": entry["name"],
            "family": entry["family"],
            "better": entry["direction"],
            "compares": "maps" if entry["space"] == "none" else entry["space"],
            "needs": ", ".join(entry["requires"]) or "nothing",
            "what it is": entry["summary"],
        }
        for entry in available()
    ]


def explainer(name: str) -> dict[str, Any]:
    """Return everything that is declared about one explainer.

    Raises
    ------
    LookupError
        If there is none of this name.
    """
    from explainers import available, method

    kind = method(name)
    entry = next(entry for entry in available() if entry["name"] == name)
    cost = entry["cost"]
    return entry | {
        "cost": None if cost is None else _known(dataclasses.asdict(cost)),
        "passes": passes(cost),
        "parameters": parameters(kind, entry["parameters"]),
        "documentation": inspect.getdoc(kind) or "",
    }


def metric(name: str) -> dict[str, Any]:
    """Return everything that is declared about one metric.

    Raises
    ------
    LookupError
        If there is none of this name.
    """
    from pipeline.metrics import available
    from pipeline.metrics import metrics as registry

    kind = registry.get(name)
    entry = next(entry for entry in available() if entry["name"] == name)
    return entry | {
        "parameters": parameters(kind, entry["parameters"]),
        "documentation": inspect.getdoc(kind) or "",
    }


def parameters(kind: type, defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return default, type and documentation of each of a dataclass's fields."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    documented = field_documentation(kind)
    return {
        name: {
            "default": "(must be given)" if default is ... else default,
            "type": str(types.get(name, "")),
            "documentation": documented.get(name, ""),
        }
        for name, default in defaults.items()
    }


def field_documentation(kind: type) -> dict[str, str]:
    """Return the strings that stand below a class's fields, its parents' included."""
    documented: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__[:-1]):
        try:
            source = inspect.getsource(ancestor)
        except (OSError, TypeError):  # made at run time, or built in: there is no source to read
            continue
        body = getattr(ast.parse(textwrap.dedent(source)).body[0], "body", [])
        for field, below in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                documented[field.target.id] = re.sub(r"\s+", " ", below.value.value).strip()
    return documented


def passes(cost: Any) -> str:
    """Return a cost in words: ``1 forward, 1 backward``."""
    if cost is None:
        return "by its parameters"
    words = (("forward", cost.forward), ("backward", cost.backward), ("step", cost.steps))
    said = [_counted(word, number) for word, number in words if number]
    return ", ".join(said) or "none of its own"


def _counted(word: str, number: float) -> str:
    if math.isnan(number):
        return f"{word}s by the input"
    return f"{number:g} {word}{'s' * (number != 1)}"


def _known(cost: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(number) else number for name, number in cost.items()}


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as a table in Markdown."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[_code(row, column) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _code(row: Mapping[str, Any], column: str) -> str:
    text = str(row[column]).replace("|", "\\|")
    return f"`{text}`" if column == "name" else text
