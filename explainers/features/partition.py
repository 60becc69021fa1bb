"""Which feature each value of an input belongs to, and maps made of numbers per feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Spread = Literal["copy", "share"]
"""Whether every value of a feature gets the feature's number, or an equal share of it."""


@dataclass(frozen=True, eq=False)
class Partition:
    """The features of a batch: disjoint sets of values that cover the input."""

    cells: Tensor
    """Feature of each value, int64 from 0 on, ``(1 | batch, ...)``, broadcasting against inputs: one
    row where all samples share it, size 1 along axes whose values stay together."""
    counts: tuple[int, ...]
    """Features of each row of `cells`; every number below is the feature of at least one value."""
    shape: tuple[int, ...]
    """Of one sample."""
    spread: Spread = "copy"

    @property
    def is_shared(self) -> bool:
        """Whether all samples have the same features."""
        return len(self.cells) == 1

    def of_rows(self, rows: Tensor) -> Partition:
        """Return the partition of some rows of the batch."""
        if self.is_shared:
            return self
        counts = tuple(self.counts[row] for row in rows.tolist())
        return Partition(self.cells[rows], counts, self.shape, self.spread)

    def members(self, coalitions: Tensor) -> Tensor:
        """Return which values belong to a coalition.

        Parameters
        ----------
        coalitions
            ``(coalitions, features)``; features beyond a row's own are not looked at.

        Returns
        -------
        Tensor
            ``(coalitions, 1 | batch, ...)``, of the type of the coalitions.
        """
        return coalitions[:, self.cells]

    def map(self, numbers: Tensor) -> Tensor:
        """Return a map, ``(batch, *shape)``, of numbers per feature, ``(batch, features)``."""
        n_rows = len(numbers)
        if self.spread == "share":
            numbers = numbers / self.sizes(numbers.shape[1]).to(numbers)
        flat = self.cells.flatten(1).expand(n_rows, -1)
        values = numbers.gather(1, flat).view(n_rows, *self.cells.shape[1:])
        return values.expand(n_rows, *self.shape).contiguous()

    def sizes(self, n_features: int) -> Tensor:
        """Return how many values each feature has, ``(1 | batch, features)``, at least 1."""
        flat = self.cells.flatten(1)
        ones = torch.ones_like(flat)
        sizes = flat.new_zeros(len(flat), n_features).scatter_add_(1, flat, ones)
        each = 1
        for size, own in zip(self.shape, self.cells.shape[1:], strict=True):
            each *= size // own
        return (sizes * each).clamp(min=1)
