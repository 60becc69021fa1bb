"""The rule table ``channels``: which units stand at the places of an operator's value.

A rule is ``rule(op, units, setting) -> Units | None``: given the units of the operator's inputs in
their order, None where there are none, it returns those of the operator's value. Operators that
read nothing with units have none either and are never asked for a rule, but for those with
weights. What a rule is registered for becomes part of causal graphs by that alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import torch

from explainers.causal.structure.units import NOTHING, Register, Units
from explainers.rules.table import RuleTable, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from explainers.operators import Operator

INSTEAD = "a scan that needs no causal structure (relevance_maximization, concept relevance)"
"""What messages recommend."""

channels = RuleTable("channels", instead=INSTEAD)


@dataclass(frozen=True, eq=False)
class Entry:
    """A weighted layer, as the walk came by."""

    operator: Operator
    features: Tensor
    """int64 ``(features, width)``: units of each input feature; ``NOTHING`` for none."""
    n_outputs: int
    refusal: str | None = None
    """What was wrong where the operator is no layer, but a value whose units are not known: its
    one unit marks what is made of it."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What rules know besides units, and where they enter layers."""

    shapes: Mapping[str, tuple[int, ...]]
    """Operator to the shape of its value for the network's example."""
    device: torch.device | str = "cpu"
    """Where the indices are by which operators move values."""
    register: Register = field(default_factory=Register)
    entries: list[Entry] = field(default_factory=list)

    def unknown(
        self, op: Operator, given: Iterable[Units | None], shape: Sequence[int], refusal: str
    ) -> Units:
        """Return units for a value of which it is not known where its units are.

        All that is given may be anywhere in it, and with it stands a mark, the unit of an entry
        with a refusal.
        """
        tables = [one.table.flatten() for one in given if one is not None]
        below = torch.unique(torch.cat([torch.empty(0, dtype=torch.int64), *tables]))
        below = below[below != NOTHING]
        every = torch.ones(1, len(below), dtype=torch.bool)
        shared = self.register.share(every, below, is_statistic=False)
        self.entries.append(Entry(op, torch.full((1, 1), NOTHING), 1, refusal))
        table = torch.stack((shared, self.register.enter(1)), 1)
        return Units(torch.zeros((), dtype=torch.int64).expand(tuple(shape)), table)


def refuse(op: Operator, why: str) -> NoReturn:
    """Refuse an operator whose value has no clear units.

    Raises
    ------
    NotImplementedError
        Always.
    """
    where = op.module_path or "the network itself"
    raise NotImplementedError(
        f"cannot tell which channels the value of {describe(op)} is made of (node {op.name!r} in "
        f"{where!r}): {why}; use {INSTEAD}, or a part of the network without it"
    )
