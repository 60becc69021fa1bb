"""What is behind a layer, run anew for interventions on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from explainers.causal.interventions.partial import Changed, Partial
from explainers.causal.interventions.passing import passed
from explainers.operators import Convolution, Linear
from explainers.sampling.forward_chunks import (
    CACHE_BYTES,
    MOST_BYTES,
    WEIGHT_SHARE,
    memory_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.interventions.stack import Stack
    from explainers.network import Network
    from explainers.operators import Operator


MOST_PAIRS = 2**14
"""That are carried together, whatever the network."""

LIVE_SHARE = 1 / 32
"""Of an accelerator's memory that inputs and value of one operator may take: several values are
live at a time, with what convolutions need besides."""


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
        # the network itself is not kept: plans are remembered for as long as it lives
        self.name, self.output_name = name, network.output_name
        behind = {name}
        found: list[Operator] = []
        for op in network.operators:
            if op.sources & behind:
                behind.add(op.name)
                found.append(op)
        self.operators = tuple(found)
        self._bytes = {one: row_bytes(network, one) for one in behind}
        self._memory = memory_of(network.device)
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
        found = changed[self.output_name]
        return first if found is None else found

    def rows_at_once(self, share: float) -> int:
        """Return how many pairs are carried together, at least one.

        On the CPU, that what an operator reads and makes stays in the cache, and weights are not
        fetched too often, as for plain forward passes; on an accelerator, a share of its memory.
        It follows from the program and the device alone, so that bits do not depend on the load.

        Parameters
        ----------
        share
            Of the operator's channels that interventions change.
        """
        sizes = {**self._bytes, self.name: self._bytes[self.name] * share}
        everything = [
            sum(sizes.get(one, 0) for one in (op.name, *op.inputs)) for op in self.operators
        ]
        widest = max([*everything, sizes[self.name], 1])
        if self._memory is not None:
            return min(max(1, int(self._memory.total() * LIVE_SHARE / widest)), MOST_PAIRS)
        weights = sum(map(_weight_bytes, self.operators))
        by_weights = WEIGHT_SHARE * weights / max(1, sum(sizes.values()))
        rows = max(CACHE_BYTES / widest, min(by_weights, MOST_BYTES / widest))
        return min(max(1, round(rows)), MOST_PAIRS)


def _weight_bytes(op: Operator) -> int:
    if not isinstance(op, Convolution | Linear):
        return 0
    return op.weight.numel() * op.weight.element_size()


def row_bytes(network: Network, name: str) -> int:
    """Return the bytes of an operator's value for one sample; 0 where it has no rows."""
    layout = network.layout(name)
    if layout is None:
        return 0
    return math.prod(layout.shape) * layout.n_places * layout.dtype.itemsize
