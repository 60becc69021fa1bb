"""Random orders of features, and the coalitions on the way from none to all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Unit = Literal["order", "pair", "four"]
"""An order alone; with its reverse; and both with halves reversed too."""

N_ORDERS = {"order": 1, "pair": 2, "four": 4}


def orders(n_orders: int, n_features: int, generator: torch.Generator) -> Tensor:
    """Return uniformly random permutations of the features, int64 ``(orders, features)``.

    The first ones are the same however many are drawn, and however they are divided among calls.
    """
    keys = torch.rand(n_orders, n_features, generator=generator, dtype=torch.float64)
    return keys.argsort(1)


@dataclass(frozen=True)
class Plan:
    """Which coalitions a unit of orders looks at.

    An order of ``n`` features passes ``n - 1`` coalitions between none and all. A unit is what is
    independent of other units. With halves A and B, a four has the orders AB, BA, and both with A
    and B reversed. Each by itself is uniformly random, but of three features they rarely have the
    same one between the others: in a fifth of all triples of 16, in place of a third, which is
    what makes interactions of three vary. AB and A reversed B reversed both pass A, which is
    looked at once; BA and its like both pass B.
    """

    n_features: int
    unit: Unit
    is_from_empty: bool = False
    """Whether the coalition of no feature is looked at for each unit, as it has its own value."""

    @property
    def n_orders(self) -> int:
        """Of a unit."""
        return N_ORDERS[self.unit]

    @property
    def n_shared(self) -> int:
        """Coalitions that two orders of a unit pass."""
        return 2 if self.unit == "four" else 0

    @property
    def length(self) -> int:
        """Coalitions that a unit looks at."""
        passed = self.n_orders * (self.n_features - 1) - self.n_shared
        return passed + int(self.is_from_empty)

    @cached_property
    def turned(self) -> Tensor:
        """What becomes of the places in an order in those of its unit, ``(orders, features)``."""
        forth = torch.arange(self.n_features)
        found = [forth, self.n_features - 1 - forth]
        if self.unit == "four":
            half = self.n_features // 2
            inside = torch.where(forth < half, half - 1 - forth, self.n_features - 1 + half - forth)
            found += [inside, self.n_features - 1 - inside]
        return torch.stack(found[: self.n_orders])

    @cached_property
    def looked_at(self) -> tuple[Tensor, Tensor]:
        """Of each coalition of a unit, its order and its size, ``(length,)`` each."""
        sizes = torch.arange(1, self.n_features).repeat(self.n_orders, 1)
        which = torch.arange(self.n_orders)[:, None].expand_as(sizes)
        is_new = torch.ones_like(sizes, dtype=torch.bool)
        for order, size, _ in self._shared():
            is_new[order, size - 1] = False
        none = torch.zeros(int(self.is_from_empty), dtype=torch.int64)
        return torch.cat((none, which[is_new])), torch.cat((none, sizes[is_new]))

    @cached_property
    def stations(self) -> Tensor:
        """Where the values along each order are, ``(orders, features + 1)``.

        Places in the values of a unit, to which those of none and of all are appended.
        """
        which, sizes = self.looked_at
        found = torch.empty(self.n_orders, self.n_features + 1, dtype=torch.int64)
        found[which, sizes] = torch.arange(self.length)
        for order, size, first in self._shared():
            found[order, size] = found[first, size]
        found[:, 0] = 0 if self.is_from_empty else self.length
        found[:, -1] = self.length + 1
        return found

    def _shared(self) -> list[tuple[int, int, int]]:
        """Return order and size of what is looked at before, and the order that did so."""
        if self.unit != "four":
            return []
        half = self.n_features // 2
        return [(2, half, 0), (3, self.n_features - half, 1)]


@dataclass(frozen=True, eq=False)
class Walks:
    """Units of orders, and what features add along them."""

    plan: Plan
    ranks: Tensor
    """When each feature joins, int64 ``(units, orders, features)``."""

    @classmethod
    def along(cls, plan: Plan, drawn: Tensor, is_removal: bool = False) -> Walks:
        """Return units along orders ``(units, features)``, in which features join, or leave."""
        ranks = drawn.argsort(1)
        if is_removal:
            # whoever leaves first is the last to have joined
            ranks = plan.n_features - 1 - ranks
        turned = plan.turned.to(drawn.device)
        return cls(plan, turned[:, ranks].transpose(0, 1))

    @property
    def n_coalitions(self) -> int:
        """Of all units."""
        return len(self.ranks) * self.plan.length

    def coalitions(self, some: slice) -> Tensor:
        """Return some of the coalitions, bool ``(some, features)``, unit after unit."""
        device = self.ranks.device
        numbers = torch.arange(some.start, some.stop, device=device)
        units, places = numbers // self.plan.length, numbers % self.plan.length
        which, sizes = (each.to(device)[places] for each in self.plan.looked_at)
        return self.ranks[units, which] < sizes[:, None]

    def contributions(self, values: Tensor, empty: Tensor, full: Tensor) -> Tensor:
        """Return what the features add when they join, ``(units, rows, features)``.

        Parameters
        ----------
        values
            Of all `coalitions`, ``(rows, coalitions)``.
        empty, full
            Values of none and of all features, ``(rows,)``; `empty` is not looked at where each
            unit has its own.
        """
        n_rows, n_units = len(values), len(self.ranks)
        ends = torch.stack((empty, full), 1).to(values)[:, None].expand(-1, n_units, -1)
        every = torch.cat((values.view(n_rows, n_units, -1), ends), 2)
        along = every[..., self.plan.stations.to(values.device)]
        gained = along.diff(dim=-1).gather(-1, self.ranks.expand(n_rows, -1, -1, -1))
        return gained.mean(2).transpose(0, 1)
