"""Which feature each value of an input belongs to, and maps made of numbers per feature."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    """Feature of each value, int64 from 0 on, ``(1 | batch, ...)``, broadcasting against inputs:
    one row where all samples share it, size 1 along axes whose values stay together."""
    counts: tuple[int, ...]
    """Features of each row of `cells`; every number below is the feature of at least one value."""
    shape: tuple[int, ...]
    """Of one sample."""
    spread: Spread = "copy"
    weights: Tensor | None = None
    """Share of its feature's number that each value gets, broadcasting as `cells`; None for what
    `spread` says."""
    are_of_samples: bool = False
    """Whether other samples may have other features: nothing else may follow from `is_shared`,
    which in a batch of one is true of them too."""

    @property
    def is_shared(self) -> bool:
        """Whether all samples of the batch have the same features."""
        return len(self.cells) == 1

    @property
    def n_features(self) -> int | None:
        """Of each sample; None where samples differ."""
        return self.counts[0] if len(set(self.counts)) == 1 else None

    def of_rows(self, rows: Tensor) -> Partition:
        """Return the partition of some rows of the batch."""
        if self.is_shared:
            return self
        if self.n_features is not None:
            # rows need not come to the host
            counts = self.counts[:1] * len(rows)
        else:
            counts = tuple(self.counts[row] for row in rows.tolist())
        weights = self.weights
        weights = weights if weights is None or len(weights) == 1 else weights[rows]
        return replace(self, cells=self.cells[rows], counts=counts, weights=weights)

    def members(self, coalitions: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return which values belong to coalitions of features.

        Parameters
        ----------
        coalitions
            Which features are there, ``(coalitions, features)``; those beyond a row's own are not
            looked at.
        rows
            Of the batch, int64 or a slice; all of them by default.

        Returns
        -------
        Tensor
            ``(coalitions, 1 | rows, ...)``, of the type of the coalitions.
        """
        cells = self.cells if self.is_shared else self.cells[rows]
        # a third of the time of index_select, which is made for few columns
        there = coalitions.gather(1, cells.flatten().expand(len(coalitions), -1))
        return there.view(len(coalitions), *cells.shape)

    def map(self, numbers: Tensor) -> Tensor:
        """Return a map, ``(batch, *shape)``, of numbers per feature, ``(batch, features)``."""
        n_rows = len(numbers)
        flat = self.cells.flatten(1)
        values = numbers.index_select(1, flat[0]) if self.is_shared else numbers.gather(1, flat)
        values = values.view(n_rows, *self.cells.shape[1:])
        if self.weights is not None or self.spread == "share":
            values = values * self.shares().to(values)
        return values.expand(n_rows, *self.shape).contiguous()

    def shares(self) -> Tensor:
        """Return which share of its feature's number each value gets, broadcasting as `cells`."""
        if self.weights is not None:
            return self.weights
        ones = torch.ones_like(self.cells, dtype=torch.float64)
        if self.spread == "copy":
            return ones
        sizes = self.sizes().gather(1, self.cells.flatten(1))
        return ones / sizes.view(self.cells.shape)

    def sizes(self, n_features: int | None = None) -> Tensor:
        """Return how many values each feature has, int64 ``(1 | batch, features)``, at least 1.

        Parameters
        ----------
        n_features
            How many; by default as many as the row with most has.
        """
        n_features = max(self.counts) if n_features is None else n_features
        flat = self.cells.flatten(1)
        each = math.prod(self.shape) // math.prod(self.cells.shape[1:])
        sizes = flat.new_zeros(len(flat), n_features)
        sizes.scatter_add_(1, flat, torch.full_like(flat, each))
        return sizes.clamp_(min=1)
