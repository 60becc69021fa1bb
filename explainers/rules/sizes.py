"""Operators that make something new in the size of their inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.operators import Call

if TYPE_CHECKING:
    from explainers.operators import Operator

_OF_SIZES = (
    *("zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)


def is_of_sizes(op: Operator) -> bool:
    """Return whether an operator reads nothing of its inputs but their sizes."""
    return isinstance(op, Call) and op.word in _OF_SIZES
