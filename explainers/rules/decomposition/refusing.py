"""What is said of operators whose parts are not defined, before any input is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from explainers.rules.decomposition.table import decomposition
from explainers.rules.table import describe

if TYPE_CHECKING:
    from explainers.operators import Operator


def refuse(op: Operator, reason: str) -> NoReturn:
    """Raise the error of a table that has no rule.

    Raises
    ------
    NotImplementedError
        Always; it names table, operator, node and module.
    """
    raise NotImplementedError(
        f"rule table {decomposition.name!r} has no rule for the operator {describe(op)} (node "
        f"{op.name!r} in {op.module_path or 'the network itself'!r}), which {reason}; "
        f"use {decomposition.instead}"
    )
