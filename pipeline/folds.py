"""Scans pull their batches, attributions are pushed theirs: both see one trace, in one order."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

B = TypeVar("B")
R = TypeVar("R")


class _Abandoned(BaseException):
    """Raised in a fold whose shard is given up; not an Exception, so that no fold catches it."""


_END = object()
_ABANDON = object()


class Fold(Generic[B, R]):
    """A function that pulls from an iterator, run so that it can be pushed to.

    It runs in a thread of its own, but never beside its caller: `push` returns when the function
    asks for the next batch, so that what both hold is used by one at a time and in a fixed order.

    Parameters
    ----------
    function
        Takes the batches; it may stop before the last one.
    """

    def __init__(self, function: Callable[[Iterable[B]], R]) -> None:
        self._function = function
        self._inbox: SimpleQueue[object] = SimpleQueue()
        self._turn = threading.Semaphore(0)
        self._result: list[R] = []
        self._error: BaseException | None = None
        # OpenMP keeps the number of threads per thread, and bits may depend on it
        self._n_torch_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="fold", daemon=True)
        self._thread.start()
        self._turn.acquire()

    def push(self, batch: B) -> None:
        """Hand over a batch and wait until it is used; what the function raises is raised here."""
        self._raise()
        if not self._result:
            self._inbox.put(batch)
            self._turn.acquire()
            self._raise()

    def finish(self) -> R:
        """End the batches and return the function's result."""
        self._inbox.put(_END)
        self._thread.join()
        self._raise()
        return self._result[0]

    def abandon(self) -> None:
        """End the function without a result; nothing if it has ended."""
        self._inbox.put(_ABANDON)
        self._thread.join()

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._n_torch_threads)
            self._result.append(self._function(self._batches()))
        except _Abandoned:
            pass
        except BaseException as error:  # it travels: `push` and `finish` raise it
            self._error = error
        finally:
            self._turn.release()

    def _batches(self) -> Iterator[B]:
        while True:
            self._turn.release()
            batch = self._inbox.get()
            if batch is _END:
                return
            if batch is _ABANDON:
                raise _Abandoned
            yield cast("B", batch)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
