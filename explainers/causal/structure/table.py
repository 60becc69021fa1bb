"""The rule table ``channels``: which units stand at the places of an operator's value.

A rule is ``rule(op, units, setting) -> Units | None``: given the units of the operator's inputs in
their order, None where there are none, it returns those of the operator's value. Operators that
read nothing with units have none either and are never asked for a rule, but for those with
weights. What a rule is registered for becomes part of causal graphs by that alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from explainers.causal.structure.units import Register
from explainers.rules.table import RuleTable, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from explainers.operators import Convolution, Linear, Operator

INSTEAD = "a scan that needs no causal structure (relevance_maximization, concept relevance)"
"""What messages recommend."""

channels = RuleTable("channels", instead=INSTEAD)


@dataclass(frozen=True, eq=False)
class Entry:
    """A weighted layer, as the walk came by."""

    operator: Convolution | Linear
    features: Tensor
    """int64 ``(features, width)``: units of each input feature; ``NOTHING`` for none."""
    n_outputs: int


@dataclass(frozen=True, eq=False)
class Setting:
    """What rules know besides units, and where they enter layers."""

    shapes: Mapping[str, tuple[int, ...]]
    """Operator to the shape of its value for the network's example."""
    device: torch.device | str = "cpu"
    """Where the indices are by which operators move values."""
    register: Register = field(default_factory=Register)
    entries: list[Entry] = field(default_factory=list)


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
