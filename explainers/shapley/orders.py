"""Random orders of features, and the coalitions on the way from none to all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def orders(n_orders: int, n_features: int, generator: torch.Generator) -> Tensor:
    """Return uniformly random permutations of the features, int64 ``(orders, features)``.

    The first ones are the same however many are drawn, and however they are divided among calls.
    """
    keys = torch.rand(n_orders, n_features, generator=generator, dtype=torch.float64)
    return keys.argsort(1)


@dataclass(frozen=True, eq=False)
class Walks:
    """Orders in which features join, and the coalitions that they pass.

    A walk of ``n`` features passes ``n - 1`` coalitions between none and all. A unit is what is
    independent of the others: one walk, or one and its reverse.
    """

    ranks: Tensor
    """When each feature joins, int64 ``(units, features)``, a permutation of 0 to n - 1 each."""
    is_paired: bool
    """Whether each unit has the reverse walk too."""
    is_from_empty: bool
    """Whether each unit also looks at the coalition of no feature, because it has its own."""

    @classmethod
    def along(
        cls, joining: Tensor, is_paired: bool, is_from_empty: bool, is_removal: bool = False
    ) -> Walks:
        """Return walks along orders ``(units, features)``, in which features join, or leave."""
        ranks = joining.argsort(1)
        if is_removal:
            # whoever leaves first is the last to have joined
            ranks = ranks.shape[1] - 1 - ranks
        return cls(ranks, is_paired, is_from_empty)

    @property
    def n_walks(self) -> int:
        """Of a unit."""
        return 2 if self.is_paired else 1

    @property
    def length(self) -> int:
        """Coalitions that a unit looks at."""
        return length(self.ranks.shape[1], self.is_paired, self.is_from_empty)

    @property
    def n_coalitions(self) -> int:
        """Of all units."""
        return len(self.ranks) * self.length

    def coalitions(self, some: slice) -> Tensor:
        """Return some of the coalitions, bool ``(some, features)``.

        Those of a unit follow each other: none if that is looked at, then walk after walk.
        """
        n_features = self.ranks.shape[1]
        numbers = torch.arange(some.start, some.stop, device=self.ranks.device)
        units, places = numbers // self.length, numbers % self.length - int(self.is_from_empty)
        # a place of -1 is that of the coalition of no feature
        sizes = torch.where(places < 0, 0, places % max(1, n_features - 1) + 1)
        is_reverse = places >= n_features - 1
        ranks = self.ranks[units]
        ranks = torch.where(is_reverse[:, None], n_features - 1 - ranks, ranks)
        return ranks < sizes[:, None]

    def contributions(self, values: Tensor, empty: Tensor, full: Tensor) -> Tensor:
        """Return what the features add when they join, ``(units, rows, features)``.

        Parameters
        ----------
        values
            Of all `coalitions`, ``(rows, coalitions)``.
        empty, full
            Values at the ends of all walks, ``(rows,)``; `empty` is not looked at where each unit
            has its own.
        """
        n_rows, n_units, n_features = len(values), *self.ranks.shape
        passed = values.view(n_rows, n_units, self.length)
        first = empty.view(-1, 1, 1).expand(n_rows, n_units, 1)
        if self.is_from_empty:
            first, passed = passed[..., :1], passed[..., 1:]
        passed = passed.reshape(n_rows, n_units, self.n_walks, n_features - 1)
        ends = (n_rows, n_units, self.n_walks, 1)
        stations = torch.cat(
            (first[..., None].expand(ends), passed, full.view(-1, 1, 1, 1).expand(ends)), -1
        )
        ranks = self.ranks[:, None]
        if self.is_paired:
            ranks = torch.cat((ranks, n_features - 1 - ranks), 1)
        gained = stations.diff(dim=-1).gather(-1, ranks.expand(n_rows, -1, -1, -1))
        return gained.mean(2).transpose(0, 1)


def length(n_features: int, is_paired: bool, is_from_empty: bool) -> int:
    """Return how many coalitions a unit looks at."""
    return (2 if is_paired else 1) * (n_features - 1) + int(is_from_empty)
