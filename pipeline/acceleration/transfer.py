"""Batches on their way to a GPU and what is found on its way back, while the GPU computes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pipeline.inputs import mapped, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.prefetch import Batch

    Enter = Callable[[NDArray[Any]], None]


def moved(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches with their inputs on a device; to a GPU each is copied one ahead.

    The copy has a stream of its own, so that it runs beside the kernels of the batch before; it
    does not wait for the host where inputs are in page-locked memory.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: deque[tuple[Batch, Any]] = deque()
    for batch in batches:
        with torch.cuda.stream(stream):
            copy = partial(torch.Tensor.to, device=device, non_blocking=True)
            ahead = replace(batch, inputs=mapped(copy, batch.inputs))
            waiting.append((ahead, stream.record_event()))
        if len(waiting) > 1:
            yield _arrived(*waiting.popleft(), device)
    while waiting:
        yield _arrived(*waiting.popleft(), device)


def _arrived(batch: Batch, event: Any, device: torch.device) -> Batch:
    """Return a batch that kernels from here on find copied; the host does not wait."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for part in parts_of(batch.inputs).values():
        # made on another stream: its memory must not be given away before this one is through
        part.record_stream(current)
    return batch


@dataclass
class Arrivals:
    """Copies to the host that are under way; one wait for all of a batch, a batch later."""

    _current: list[tuple[Tensor, Enter]] = field(default_factory=list)
    _earlier: deque[tuple[Any, list[tuple[Tensor, Enter]]]] = field(default_factory=deque)

    def receive(self, values: Tensor, enter: Enter) -> None:
        """Call `enter` with values as they are on the host: now, or when `settle` says so."""
        values = values.detach()
        if not is_away(values):
            enter(values.numpy())
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        host.copy_(values, non_blocking=True)
        self._current.append((host, enter))

    def settle(self, *, keep_last: bool = False) -> None:
        """End a batch, and enter what has arrived of those before it; of all, unless kept.

        Entering a batch while the next one is computed costs page-locked memory for two.
        """
        if self._current:
            self._earlier.append((_marked(), self._current))
            self._current = []
        while len(self._earlier) > int(keep_last):
            event, copies = self._earlier.popleft()
            if event is not None:
                event.synchronize()
            for host, enter in copies:
                enter(host.numpy())


def is_away(values: Tensor) -> bool:
    """Whether values are not in the memory of the host."""
    return values.device.type != "cpu"


def _marked() -> Any:
    """Return an event behind everything that the GPU was given so far; None without one."""
    return torch.cuda.current_stream().record_event() if torch.cuda.is_available() else None
