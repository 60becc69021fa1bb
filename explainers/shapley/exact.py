"""Shapley values from all coalitions."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, ClassVar

import torch

from explainers.perturbing.estimate import Estimate
from explainers.sampling.map_moments import MapMoments
from explainers.shapley.estimator import Estimator, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.shapley.estimator import GameLike

MOST = 16
"""Features: 65536 coalitions."""

_AT_ONCE = 4096
"""Coalitions whose values are held at once."""


@register("exact")
@dataclass(frozen=True)
class Exact(Estimator):
    """The weighted sum over all coalitions (Shapley 1953).

    ``phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S and i) - v(S))``. Where absent
    features are drawn, it is the mean over as many draws as the budget allows for, each with all
    coalitions, and has the standard error of that mean; else the error is zero. By default there
    are as many draws as rows to draw from, and each row is seen once: the values are then those of
    the mean game exactly, and the error is what other rows of their kind would change.
    """

    has_standard_error: ClassVar[bool] = True
    most_features: ClassVar[int | None] = MOST

    def least(self, n_features: int) -> int:
        """Return the number of coalitions."""
        return int(2**n_features)

    def default(self, n_features: int) -> int:
        """Return the number of coalitions."""
        return self.least(n_features)

    def default_drawn(self, n_features: int, n_rows: int) -> int:
        """Return what one draw of every row takes."""
        return 1 + n_rows * (self.least(n_features) - 1)

    def used(self, n_features: int, n_evaluations: int, *, is_random: bool = False) -> int:
        """Return the number of coalitions; where they are drawn, as often as the budget allows."""
        n_others = self.least(n_features) - 1
        return 1 + n_others * (max(1, (n_evaluations - 1) // n_others) if is_random else 1)

    def least_with_error(self, n_features: int, *, is_random: bool = False) -> int:
        """Return what two draws take."""
        least = self.least(n_features)
        return 2 * least - 1 if is_random else least

    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return the values; neither seed nor tolerance matter."""
        used = self.used(game.n_features, n_evaluations, is_random=game.is_random)
        counts = torch.full_like(game.full, used, dtype=torch.int64)
        dtype = torch.promote_types(game.full.dtype, torch.float32)
        if not game.is_random:
            values = (_shapley(game, 1, 0) + _of_ends(game, game.empty)).to(dtype)
            return Estimate(values, counts, torch.zeros_like(values))
        # that of all features is the same in all draws
        n_draws = (used - 1) // (self.least(game.n_features) - 1)
        nothing = torch.zeros_like(game.full)
        each = (_shapley(game, 0, draw) + _of_ends(game, nothing) for draw in range(n_draws))
        moments = MapMoments.over(values[None] for values in each)
        return Estimate(moments.mean.to(dtype), counts, moments.standard_error.to(dtype))


def _of_ends(game: GameLike, empty: Tensor) -> Tensor:
    """Return the part of all features and of none, ``(rows, 1)``."""
    return ((game.full.double() - empty.double()) / game.n_features)[:, None]


def _shapley(game: GameLike, first: int, draw: int) -> Tensor:
    """Return the part of all coalitions from the first on, without the last, ``(rows, n)``."""
    n_features, device = game.n_features, game.full.device
    place = torch.arange(n_features, device=device)
    present, absent = (_weights(n_features, is_in).to(device) for is_in in (True, False))
    total = torch.zeros(game.n_rows, n_features, dtype=torch.float64, device=device)
    last = 2**n_features - 1
    for start in range(first, last, _AT_ONCE):
        codes = torch.arange(start, min(start + _AT_ONCE, last), device=device)
        coalitions = (codes[:, None] >> place & 1).bool()
        sizes = coalitions.sum(1, keepdim=True)
        weights = torch.where(coalitions, present[sizes], -absent[sizes])
        values = game.values(coalitions, None, torch.full((len(codes),), draw))
        total += values.double() @ weights
    return total


def _weights(n_features: int, is_in: bool) -> Tensor:
    """Return what a coalition weighs for a feature that is in it, or not, by its size."""
    # |S|! (n - |S| - 1)! / n! is one over n times the coalitions as large among n - 1 features
    sizes = [size - int(is_in) for size in range(n_features + 1)]
    return torch.tensor(
        [
            1 / (n_features * comb(n_features - 1, size)) if 0 <= size < n_features else 0.0
            for size in sizes
        ],
        dtype=torch.float64,
    )
