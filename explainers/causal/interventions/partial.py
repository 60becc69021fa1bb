"""Values of which interventions have changed only some channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.interventions.stack import Stack


@dataclass(frozen=True, eq=False)
class Partial:
    """The channels of a value that may have changed; the others are as without intervention."""

    value: Tensor
    """Shaped as the operator's value of all pairs, but along one axis."""
    axis: int
    """Of the channels, not negative; not that of the rows."""
    columns: Tensor
    """Which of them these are, int64, ascending."""
    size: int
    """Of the axis in the whole value."""

    @property
    def share(self) -> float:
        """Of the channels that may have changed."""
        return len(self.columns) / self.size


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
            self._whole[name] = self.stack.completed(name, value)
        return self._whole[name]
