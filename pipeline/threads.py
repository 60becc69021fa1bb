"""How many threads numbers are computed with: bits may depend on it, so the plan fixes it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator


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
