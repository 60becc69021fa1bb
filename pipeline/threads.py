"""How many threads numbers are computed with, and how many processors there are for them.

Bits may depend on the number of threads, so the plan fixes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time, or ``max``, and the period that they are granted for."""


@contextlib.contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Run a block with so many threads in torch and in the BLAS of numpy and scipy."""
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def processors() -> int:
    """Return how many processors this process may use.

    These are those that it is bound to, but no more than its control group may have time of: a
    container sees all processors of its machine, and is held back when it uses them.
    """
    # macOS has no affinity
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity else os.cpu_count() or 1
    granted = _granted(_CPU_MAX)
    return there if granted is None else max(1, min(there, granted))


def _granted(limit: Path) -> int | None:
    """Return the whole processors that a control group is granted; None if nobody limits it."""
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        return int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such system, or "max"
        return None
