"""Games of which every value is known: what estimators are tested on."""

from __future__ import annotations

import functools
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from explainers import Network
from tests.explainers.twins import seeded

if TYPE_CHECKING:
    from collections.abc import Callable


class TableGame:
    """A game per row, given by a function from coalitions ``(P, n)`` to values ``(rows, P)``."""

    def __init__(self, n_features: int, value: Callable[[Tensor], Tensor]) -> None:
        self.n_features = n_features
        self.value = value
        self.n_evaluations = 0
        self.is_random = False
        everybody = torch.ones(1, n_features, dtype=torch.bool)
        self.full = value(everybody)[:, 0]
        self.empty = value(~everybody)[:, 0]
        self.n_rows = len(self.full)
        self.rows = torch.arange(self.n_rows)

    @classmethod
    def random(cls, n_features: int, n_rows: int = 3, seed: int = 0) -> TableGame:
        """A value of its own for every coalition."""
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(n_rows, 2**n_features, generator=generator, dtype=torch.float64)
        weights = 2 ** torch.arange(n_features)
        return cls(n_features, lambda coalitions: table[:, (coalitions * weights).sum(1)])

    def values(
        self, coalitions: Tensor, rows: Tensor | None = None, replicates: Tensor | None = None
    ) -> Tensor:
        """Values of coalitions, counted."""
        self.n_evaluations += len(coalitions)
        found = self.value(coalitions)
        return found if rows is None else found[rows]


def shapley_by_permutations(game: TableGame) -> Tensor:
    """Mean marginal contribution over all orders, the definition (Shapley 1953)."""
    n_features = game.n_features
    total = torch.zeros(game.n_rows, n_features, dtype=torch.float64)
    for order in permutations(range(n_features)):
        there = torch.zeros(1, n_features, dtype=torch.bool)
        before = game.value(there)[:, 0]
        for feature in order:
            there[0, feature] = True
            after = game.value(there)[:, 0]
            total[:, feature] += after - before
            before = after
    return total / factorial(n_features)


class Several(nn.Module):
    """A convolution that a skip goes past, beside a table and tokens, whose order counts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.table, self.embedding = nn.Linear(3, 4), nn.Embedding(7, 4)
        self.fc = nn.Linear(3 * 16 + 4, 3)

    def forward(self, image: Tensor, table: Tensor, tokens: Tensor) -> Tensor:
        stem = self.stem(image)
        hidden = (self.conv(stem).relu() + stem).sigmoid().flatten(1)
        order = torch.arange(1, tokens.shape[1] + 1).to(table)[:, None]
        read = (self.embedding(tokens) * order).sum(1) * self.table(table).tanh()
        return self.fc(torch.cat([hidden, read], 1))


@functools.cache
def several() -> tuple[nn.Module, Network, tuple[Tensor, Tensor, Tensor]]:
    """Return a model of several inputs, its network and five rows; nobody may change them."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(5, 2, 4, 4, generator=generator, dtype=torch.float64)
    table = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    inputs = (image, table, torch.randint(7, (5, 3), generator=generator))
    model = seeded(Several())
    return model, Network(model, inputs), inputs
