"""The network that finds a block of ones in a string: its weights are written down, not learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class BlockFinder(nn.Module):
    """Whether a string has a block of ones, exactly, for binary strings.

    With `eta` the string is first sharpened by a ramp of that width around 1/2, so that whatever is
    below (1 - eta) / 2 is a zero and whatever is above (1 + eta) / 2 is a one.
    """

    def __init__(self, dimension: int, block_size: int, eta: float | None, n_outputs: int) -> None:
        super().__init__()
        self.edges = self.ramp = None
        if eta is not None:
            self.edges, self.ramp = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)
            _set(self.edges, [[[[1.0]]], [[[1.0]]]], [(eta - 1) / 2, (-eta - 1) / 2])
            _set(self.ramp, [[[[1 / eta]], [[-1 / eta]]]], [0.0])
        self.blocks = nn.Conv2d(1, 1, (1, block_size))
        _set(self.blocks, [[[[1.0] * block_size]]], [1.0 - block_size])
        self.none = nn.Linear(dimension - block_size + 1, 1)
        _set(self.none, [[-1.0] * self.none.in_features], [1.0])
        self.answer = nn.Linear(1, n_outputs)
        _set(self.answer, [[1.0], [-1.0]][-n_outputs:], [0.0, 1.0][-n_outputs:])

    def forward(self, strings: torch.Tensor) -> torch.Tensor:
        """Return the answers for strings ``(batch, 1, 1, dimension)``."""
        if self.edges is not None and self.ramp is not None:
            strings = self.ramp(torch.relu(self.edges(strings)))
        # one of every block that begins at a place, and none of anything less
        blocks = torch.relu(self.blocks(strings)).flatten(1)
        answer: torch.Tensor = self.answer(torch.relu(self.none(blocks)))
        return answer


def load(
    eta: float | None = None, dimension: int = 16, block_size: int = 5, n_outputs: int = 2
) -> nn.Module:
    """Return the network.

    Parameters
    ----------
    eta
        Width of the ramp, above 0 and up to 1; the string is taken as it is if there is none.
    dimension
        Length of the strings.
    block_size
        Ones in a block.
    n_outputs
        2: that there is none and that there is one, which are the labels of the source
        ``boolean_strings``; 1: that there is one alone, as in the original experiment.
    """
    if eta is not None and not 0 < eta <= 1:
        raise ValueError(f"got eta {eta}, expected a width above 0 and up to 1")
    if n_outputs not in (1, 2):
        raise ValueError(f"got n_outputs {n_outputs}, expected 1 or 2")
    return BlockFinder(dimension, block_size, eta, n_outputs).eval()


def _set(layer: nn.Conv2d | nn.Linear, weight: list[Any], bias: list[float]) -> None:
    layer.weight = nn.Parameter(torch.tensor(weight))
    layer.bias = nn.Parameter(torch.tensor(bias))
