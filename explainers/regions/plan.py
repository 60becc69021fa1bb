"""How the output is found where boxes are filled in: on pieces first, whole from some point on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from explainers.regions.local import Local

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.operators import Operator
    from explainers.reading.program import Program
    from explainers.regions.boxes import Boxes
    from explainers.regions.local import Region

Step: TypeAlias = "Local | Operator"
"""An operator on pieces, or one that is run whole."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How the output is found where a box of the input is filled in."""

    boxes: Boxes
    source: str
    """Name of the input."""
    region: Region
    """What boxes are of it."""
    steps: tuple[Step, ...]
    """What is run first, in order."""
    regions: Mapping[str, Region]
    """Of the values that are pieces."""
    last_uses: Mapping[str, tuple[str, ...]]
    """Operator to the inputs that nothing after it reads."""
    tail: Program
    """What is then run whole."""
    given: tuple[str, ...]
    """Names of values that the tail reads and does not make, and of which values matter."""
    sized: tuple[str, ...]
    """Names of values that the tail reads sizes of alone."""
    cost: float
    """In multiplications for each box and sample, as a part of what running everything costs."""
    n_values: int
    """The most values of one operator and its inputs at once, for each box and sample."""
    n_values_before: int
    """The same, where everything is run."""

    @property
    def needed(self) -> frozenset[str]:
        """Names of the values that have to be known of the rows as they are."""
        read = {name for step in self.steps for name in operator(step).inputs}
        return frozenset({self.source, *read, *self.given, *self.sized} - self.made)

    @property
    def made(self) -> set[str]:
        """Names of the values that are made whole by the steps."""
        return {step.name for step in self.steps if not isinstance(step, Local)}


def operator(step: Step) -> Operator:
    """Return what a step runs."""
    return step.op if isinstance(step, Local) else step
