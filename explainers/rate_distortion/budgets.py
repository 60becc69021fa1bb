"""How many rows go through the network at once, forward and back: found from the program."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import torch

from explainers.sampling import chunks
from explainers.sampling.forward_chunks import MEMORY_SHARE, memory_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.network import Network
    from explainers.trace import Trace

R = TypeVar("R")

CPU_BYTES = 2**26
"""Values of all layers that a pass keeps on the CPU, at least those of one row: a LeNet is fastest,
to a few per cent, with 80 to 600 rows of means and variances and with 8 to 20 of 31 maps, and takes
a fifth more time with 32 of these, which are 100 MiB."""

KEPT_COPIES = 4
"""What a pass takes for each byte of a layer's value on an accelerator: the value, what its rule
keeps for the way back, and what comes back."""


class Budget:
    """How many rows go through a network at once; fewer after it ran out of memory.

    Parameters
    ----------
    trace
        Whose network it is.
    n_maps
        See `rows_at_once`.
    """

    def __init__(self, trace: Trace, n_maps: int) -> None:
        self.n_rows = rows_at_once(trace, n_maps)
        self._device = trace.inputs.device

    def kept(self, run: Callable[[], R]) -> R:
        """Return what `run` returns; it is run again with half the rows where memory is short.

        Raises
        ------
        torch.OutOfMemoryError
            If memory is short for one row.
        """
        while True:
            try:
                return run()
            except torch.OutOfMemoryError:
                if self.n_rows == 1:
                    raise
            self.n_rows //= 2
            memory = memory_of(self._device)
            if memory is not None:
                memory.release()


def rows_at_once(trace: Trace, n_maps: int) -> int:
    """Return how many rows one pass there and back takes, at least one.

    It follows from network and device alone, so that bits do not depend on who asks.

    Parameters
    ----------
    trace
        Whose network it is.
    n_maps
        Maps of each layer that a row has: 1 for values, 2 with variances, 1 + K with a factor.
    """
    network, inputs = trace.network, trace.inputs
    if not network.is_program:
        return max(1, chunks.rows_at_once(inputs) // n_maps)
    each = n_maps * row_bytes(network)
    memory = memory_of(inputs.device)
    if memory is None:
        return max(1, CPU_BYTES // each)
    budget = int(memory.total() * MEMORY_SHARE) // KEPT_COPIES
    return max(1, budget // each)


def row_bytes(network: Network) -> int:
    """Return the bytes that the values of a row take that depend on the input, in all layers."""
    total = 0
    for op in network.operators:
        layout = network.layout(op.name)
        if op.name in network.dependent and layout is not None:
            total += math.prod(layout.shape) * layout.n_places * layout.dtype.itemsize
    return max(1, total)
