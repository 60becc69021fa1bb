"""Shapley values by random orders in which features join: unbiased, with a standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers.perturbing.estimate import Estimate
from explainers.perturbing.stopping import streamed
from explainers.sampling.chunks import pieces
from explainers.sampling.map_moments import MapMoments
from explainers.shapley.estimator import Estimator, register
from explainers.shapley.orders import Plan, Walks, orders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.shapley.estimator import GameLike
    from explainers.shapley.orders import Unit

Order = Literal["insertion", "removal"]

N_PAIRS = 10
"""By default, as many as the shap library takes."""

FOURS = 8
"""Units of four orders that a budget has to allow for: the error of fewer is hard to tell."""

_VALUES = 2**20
"""Values of coalitions held at once: 8 MB, and a few times that on the way."""

_MEMBERS = 2**22
"""Entries of a matrix of coalitions; 36 MB with the ranks that it is made of."""


@register("permutation")
@dataclass(frozen=True)
class Permutation(Estimator):
    """Mean of what features add when they join in random orders (Castro et al. 2009).

    ``phi_i = mean over orders of v(those before i, and i) - v(those before i)``,
    doi:10.1016/j.cor.2008.04.004. The sum over the features is ``v(all) - v(none)`` to rounding.
    With `antithetic`, each order comes with its reverse (Mitchell et al. 2022, arXiv:2104.12199):
    one pair is exact for games whose features interact in pairs at most. Where the budget allows
    for eight of them, units are two such pairs, the second of which has the halves of the first
    reversed: see `orders.Plan`. The standard error is that of independent units: their deviation
    over the root of their number; NaN of one.

    Of ``n`` features an order takes ``n - 1`` evaluations, since all of them and none are shared
    by all orders, and a unit of four orders two less. Where absent features are drawn, an order
    and its reverse see the same draw and begin at their own value of none, which is one more; then
    there are no units of four, since draws matter more. What of the budget does not suffice for
    another unit is not used.
    """

    antithetic: bool = True
    order: Order = "insertion"
    n_samples: int | None = None
    """Orders, in place of a budget; rounded up to whole units."""

    has_standard_error: ClassVar[bool] = True

    def least(self, n_features: int) -> int:
        """Return what one order, or pair, takes."""
        return 2 + Plan(n_features, self._smallest).length

    def default(self, n_features: int) -> int:
        """Return what `n_samples` take, else some more than ten pairs."""
        if self.n_samples is not None:
            plan, n_units = self._planned(n_features, 0, is_random=False)
            return 2 + n_units * plan.length
        return 2 + 2 * N_PAIRS * n_features

    def used(self, n_features: int, n_evaluations: int, *, is_random: bool = False) -> int:
        """Return what whole units take."""
        plan, n_units = self._planned(n_features, n_evaluations, is_random)
        return _n_ends(plan) + n_units * plan.length

    def least_with_error(self, n_features: int, *, is_random: bool = False) -> int:
        """Return what two orders, or pairs, take."""
        plan = Plan(n_features, self._smallest, is_random)
        return _n_ends(plan) + 2 * plan.length

    def estimate(
        self, game: GameLike, n_evaluations: int, seed: int, tolerance: float | None = None
    ) -> Estimate:
        """Return the mean contributions and their standard errors."""
        plan, n_units = self._planned(game.n_features, n_evaluations, game.is_random)
        if not plan.length:
            whole = (game.full - game.empty)[:, None]
            return Estimate(whole, _counts(game.full, 2), torch.zeros_like(whole))
        generator = torch.Generator().manual_seed(seed)
        found = streamed(
            lambda rows, units: self._moments(game, rows, plan, units, generator),
            torch.arange(game.n_rows, device=game.full.device),
            n_units,
            tolerance,
        )
        counts = found.n_units * plan.length + _n_ends(plan)
        return Estimate(found.mean, counts, found.error)

    def _moments(
        self, game: GameLike, rows: Tensor, plan: Plan, units: range, generator: torch.Generator
    ) -> MapMoments:
        """Return moments of the contributions in some units, of some rows."""

        def blocks() -> Iterator[Tensor]:
            at_once = max(1, _VALUES // (len(rows) * plan.length))
            for block in pieces(len(units), at_once):
                chosen = units[block]
                drawn = orders(len(chosen), plan.n_features, generator).to(rows.device)
                walks = Walks.along(plan, drawn, self.order == "removal")
                values = _evaluated(game, walks, rows, chosen.start)
                empty = values[:, 0] if game.is_random else game.empty[rows]
                yield walks.contributions(values, empty, game.full[rows])

        return MapMoments.over(blocks())

    @property
    def _smallest(self) -> Unit:
        return "pair" if self.antithetic else "order"

    def _planned(self, n_features: int, n_evaluations: int, is_random: bool) -> tuple[Plan, int]:
        """Return what a unit is, and how many there are."""
        single = Plan(n_features, self._smallest, is_random)
        four = Plan(n_features, "four")
        # of three features, halves have nothing to reverse
        are_fours = self.antithetic and not is_random and n_features > 3
        if are_fours and self._n_units(four, n_evaluations) >= FOURS:
            return four, self._n_units(four, n_evaluations)
        return single, self._n_units(single, n_evaluations)

    def _n_units(self, plan: Plan, n_evaluations: int) -> int:
        if self.n_samples is not None:
            return -(-self.n_samples // plan.n_orders)
        return (n_evaluations - _n_ends(plan)) // max(1, plan.length)


def _n_ends(plan: Plan) -> int:
    """Return how many evaluations all units share: that of all features, and mostly of none."""
    return 1 if plan.is_from_empty else 2


def _evaluated(game: GameLike, walks: Walks, rows: Tensor, first_unit: int) -> Tensor:
    """Return the values of all coalitions of some walks, ``(rows, coalitions)``."""
    which = None if len(rows) == game.n_rows else rows
    dtype = torch.promote_types(game.full.dtype, torch.float32)
    values = game.full.new_empty(len(rows), walks.n_coalitions, dtype=dtype)
    for some in pieces(walks.n_coalitions, max(1, _MEMBERS // game.n_features)):
        replicates = torch.arange(some.start, some.stop) // walks.plan.length + first_unit
        values[:, some] = game.values(walks.coalitions(some), which, replicates).to(dtype)
    return values


def _counts(like: Tensor, n_evaluations: int) -> Tensor:
    return torch.full_like(like, n_evaluations, dtype=torch.int64)
