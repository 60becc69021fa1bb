"""Values of which interventions have changed only some channels, and how operators take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TYPE_CHECKING

import torch

from explainers.operators import (
    Activation,
    Operator,
)

if TYPE_CHECKING:
    from explainers.causal.interventions.stack import Stack
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Partial:
    """The channels of a value that may have changed; the others are as without intervention."""

    value: Tensor
    """Shaped as the operator's value of all pairs, but along one axis."""
    axis: int
    """Of the channels, not negative."""
    columns: Tensor
    """Which of them these are, int64, ascending."""
    size: int
    """Of the axis in the whole value."""


class Changed:
    """What interventions have changed so far, of the pairs of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._values: dict[str, Tensor | Partial] = {}
        self._whole: dict[str, Tensor] = {}

    def __setitem__(self, name: str, value: Tensor | Partial) -> None:
        """Enter what has become of an operator's value."""
        self._values[name] = value

    def __getitem__(self, name: str) -> Tensor | Partial | None:
        """Return what has become of an operator's value; None where it has not changed."""
        return self._values.get(name)

    def drop(self, name: str) -> None:
        """Forget what nobody reads any more."""
        self._values.pop(name, None)
        self._whole.pop(name, None)

    def whole(self, name: str) -> Tensor:
        """Return the whole value of an operator for the pairs, changed or not."""
        value = self._values.get(name)
        if value is None:
            return self.stack.full(name)
        if not isinstance(value, Partial):
            return value
        if name not in self._whole:
            made = self.stack.full(name).index_copy_(value.axis, value.columns, value.value)
            self._whole[name] = made
        return self._whole[name]


@singledispatch
def passed(op: Operator, changed: Changed) -> Tensor | Partial:
    """Return an operator's value for the pairs; what has no rule computes all channels."""
    return whole(op, changed)


def whole(op: Operator, changed: Changed) -> Tensor:
    """Return an operator's value for the pairs, of all channels."""
    return op.run(
        *(
            changed.whole(name) if name in op.sources else changed.stack.sized(name)
            for name in op.inputs
        )
    )


@passed.register(Activation)
def _activation(op: Activation, changed: Changed) -> Tensor | Partial:
    value = changed[op.inputs[0]]
    if not isinstance(value, Partial):
        return whole(op, changed)
    return replace(value, value=op.run(value.value))
