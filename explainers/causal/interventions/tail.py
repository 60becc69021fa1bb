"""What is behind a layer, run anew for interventions on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from explainers.causal.interventions.partial import Changed, Partial
from explainers.causal.interventions.passing import passed

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.interventions.stack import Stack
    from explainers.network import Network
    from explainers.operators import Operator


class Tail:
    """The operators whose values depend on that of one of them.

    Parameters
    ----------
    network
        A program.
    name
        Of the operator.
    """

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name
        behind = {name}
        found: list[Operator] = []
        for op in network.operators:
            if op.sources & behind:
                behind.add(op.name)
                found.append(op)
        self.operators = tuple(found)
        seen = {network.output_name}
        self._dropped: dict[str, list[str]] = {}
        for op in reversed(found):
            last = [one for one in dict.fromkeys(op.inputs) if one in behind - seen]
            self._dropped[op.name] = last
            seen.update(last)

    def run(self, stack: Stack, first: Partial) -> Tensor | Partial:
        """Return the outputs for the pairs, given what has become of the operator's value."""
        changed = Changed(stack)
        changed[self.name] = first
        for op in self.operators:
            changed[op.name] = passed(op, changed)
            for name in self._dropped[op.name]:
                changed.drop(name)
        found = changed[self.network.output_name]
        return first if found is None else found

    def widest(self, first: int) -> int:
        """Return the bytes of a pair that inputs and value of one operator take at most.

        Parameters
        ----------
        first
            Bytes of what the operator itself changes.
        """
        sizes = {self.name: first}
        found = first
        for op in self.operators:
            sizes[op.name] = row_bytes(self.network, op.name)
            found = max(found, sum(sizes.get(name, 0) for name in (op.name, *op.inputs)))
        return found


def row_bytes(network: Network, name: str) -> int:
    """Return the bytes of an operator's value for one sample; 0 where it has no rows."""
    layout = network.layout(name)
    if layout is None:
        return 0
    return math.prod(layout.shape) * layout.n_places * layout.dtype.itemsize
