"""What rules say of operators that they cannot serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from explainers.rules.moments.table import moments
from explainers.rules.table import describe

if TYPE_CHECKING:
    from explainers.operators import Operator


def refuse(op: Operator, kind: str, reason: str = "") -> NoReturn:
    """Raise the error of a table that has no rule.

    Raises
    ------
    NotImplementedError
        Always; it names table, operator, node and module.
    """
    what = f" of {reason}" if reason else ""
    raise NotImplementedError(
        f"rule table {moments.name!r} has no rule called {kind!r} for the operator "
        f"{describe(op)}{what} (node {op.name!r} in {op.module_path or 'the network itself'!r}); "
        f"use {moments.instead}"
    )
