"""How many rows one forward pass takes that keeps no values: found once for each network.

On the CPU, what lies in the cache is not fetched again, neither values nor weights. How many rows
that allows follows from the program alone, so that the bits of a result do not depend on who
computes it. On an accelerator memory decides: what a row takes is measured, and what there is in
all counts, not what neighbours have left of it, for the same reason.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from explainers.sampling import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from explainers.network import Network
    from explainers.operators import Operator

    Probe = Callable[[int], object]

T = TypeVar("T")

CACHE_BYTES = 12 * 2**20
"""What the inputs and the value of one operator may take: LeNet is fastest with 5 to 14 MiB, takes
a fifth more time with 25 to 45, and two thirds more from 70 on."""

WEIGHT_SHARE = 4.0
"""Values that a pass should make for each weight that it has to fetch, so that weights cost little:
a row of ResNet18 takes a fifth more time among 2 than among 8, which this is, and on 32 pixels
twice as much among 16 as among 256."""

MOST_BYTES = 2**26
"""That inputs and value of one operator may take for the sake of many weights."""

MOST_ROWS = 2**11
"""Whatever the network: passes of narrow networks are slower again with more."""

MEMORY_SHARE = 0.25
"""Of an accelerator's memory; the rest is for weights, what others hold, and fragments. A pass for
which this is too much is halved."""

PROBE_ROWS = 4
"""By which memory is measured."""


class Memory(Protocol):
    """What can be known about a device's memory, in bytes."""

    def total(self) -> int:
        """Return what the device has, whoever holds it."""

    def taken(self, run: Callable[[], object]) -> int:
        """Return what `run` has allocated at most at any time, beyond what there was."""

    def release(self) -> None:
        """Give back what is kept for later."""


@dataclasses.dataclass(frozen=True)
class CudaMemory:
    """Memory of a CUDA device, of which torch keeps a part."""

    device: torch.device

    def total(self) -> int:
        """Return what the driver says of the device."""
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def taken(self, run: Callable[[], object]) -> int:
        """Return the peak of torch's allocations."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        return torch.cuda.max_memory_allocated(self.device) - before

    def release(self) -> None:
        """Give back torch's unused part."""
        torch.cuda.empty_cache()


def memory_of(device: torch.device) -> Memory | None:
    """Return the memory of an accelerator; None where it cannot be measured."""
    return CudaMemory(device) if device.type == "cuda" else None


_limits: WeakKeyDictionary[Network, int] = WeakKeyDictionary()


def forward_rows(network: Network, inputs: Tensor, probe: Probe) -> int:
    """Return how many rows one pass should take, at least one.

    Parameters
    ----------
    network
        Which has inputs of one shape on one device.
    inputs
        ``(batch, ...)``.
    probe
        Runs a pass of so many rows; called only where memory is to be measured.
    """
    if network not in _limits:
        memory = memory_of(inputs.device)
        if memory is not None:
            _limits[network] = _fitting(memory, probe)
        elif inputs.device.type == "cpu" and network.is_program:
            _limits[network] = _cached(network)
        else:
            _limits[network] = chunks.rows_at_once(inputs)
    return _limits[network]


def as_memory_allows(network: Network, compute: Callable[[], T]) -> T:
    """Return what a function computes, again with half the rows a pass each time memory runs out.

    Parameters
    ----------
    network
        Whose passes take the memory.
    compute
        Asks `forward_rows` how many rows a pass takes.

    Raises
    ------
    torch.OutOfMemoryError
        If one row is too many.
    """
    while True:
        try:
            return compute()
        except torch.OutOfMemoryError:
            if not halve(network):
                raise


def halve(network: Network) -> bool:
    """Remember that a pass ran out of memory; return whether fewer rows can be tried."""
    limit = _limits.get(network, 1)
    if limit <= 1:
        return False
    _limits[network] = limit // 2
    memory = memory_of(network.device)
    if memory is not None:
        memory.release()
    return True


def _fitting(memory: Memory, probe: Probe) -> int:
    """Return the rows that fit, a power of two: much the same need gives the same bits."""
    probe(1)  # what is allocated once for all is no need of rows
    each = max(1, memory.taken(lambda: probe(PROBE_ROWS)) // PROBE_ROWS)
    rows = max(1, int(memory.total() * MEMORY_SHARE) // each)
    return 1 << (rows.bit_length() - 1)


def _cached(network: Network) -> int:
    """Return the rows by which cache and weights are used best."""
    sizes = {op.name: _row_bytes(network, op.name) for op in network.operators}
    widest = max(sum(sizes[name] for name in (op.name, *op.inputs)) for op in network.operators)
    weights = sum(one.numel() * one.element_size() for op in network.operators for one in _held(op))
    by_weights = WEIGHT_SHARE * weights / max(1, sum(sizes.values()))
    rows = max(CACHE_BYTES / max(1, widest), min(by_weights, MOST_BYTES / max(1, widest)))
    return min(max(1, round(rows)), MOST_ROWS)


def _row_bytes(network: Network, name: str) -> int:
    """Return the bytes of an operator's value for one sample; 0 where it has no rows."""
    layout = network.layout(name)
    if layout is None:
        return 0
    return math.prod(layout.shape) * layout.n_places * layout.dtype.itemsize


def _held(op: Operator) -> Iterator[Tensor]:
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Tensor):
                yield one
