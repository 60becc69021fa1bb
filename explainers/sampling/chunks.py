"""How many rows go through the network at once, where a method needs many passes per sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CPU_ELEMENTS = 2**19
"""Input values per pass: some 670 digits or 3 photographs. LeNet and ResNet18 were fastest between
2**18 and 2**20; far smaller chunks cost a fifth more, all steps in one batch twice as much."""

ACCELERATOR_ELEMENTS = 2**23
"""About 55 photographs; ResNet-50 then needs some 5 GB."""


def rows_at_once(inputs: Tensor) -> int:
    """Return how many rows like these one pass should take, at least one."""
    elements = CPU_ELEMENTS if inputs.device.type == "cpu" else ACCELERATOR_ELEMENTS
    return max(1, elements // max(1, math.prod(inputs.shape[1:])))


def pieces(n_rows: int, limit: int) -> Iterator[slice]:
    """Yield slices of nearly equal length, `limit` at most, that cover all rows in order."""
    n_pieces = max(1, -(-n_rows // limit))
    for piece in range(n_pieces):
        yield slice(piece * n_rows // n_pieces, (piece + 1) * n_rows // n_pieces)


def row_pieces(inputs: Tensor) -> Iterator[slice]:
    """Yield the rows that are explained together: all of them, unless they exceed one pass."""
    return pieces(len(inputs), rows_at_once(inputs))


def repeat_pieces(inputs: Tensor, n_rows: int, n_repeats: int) -> Iterator[slice]:
    """Yield the repetitions of `n_rows` rows that go through the network together."""
    limit = max(1, rows_at_once(inputs) // max(1, n_rows))
    for first in range(0, n_repeats, limit):
        yield slice(first, min(first + limit, n_repeats))
