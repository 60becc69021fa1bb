"""Which masks a problem allows, and what of the objective depends on the mask alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from explainers.rate_distortion.solvers.problem import dots, price
from explainers.rate_distortion.solvers.projections import capped_simplex

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.solvers.problem import Problems


@dataclass(frozen=True, eq=False)
class Feasible:
    """Flat masks in the box, with a bound on their sum, or a price on their mean, for each row.

    Because masks are not negative the price is linear within the box.
    """

    totals: Tensor | None
    """Largest sums, float64 ``(n,)``, fractions allowed; None where the rate has a price."""
    prices: Tensor | None
    """What a rate of one costs, ``(n,)``; None where the rate is bounded."""

    @classmethod
    def of(cls, problems: Problems) -> Self:
        """Return what problems allow: the bound decides where they have a rate."""
        if problems.rate is None:
            return cls(None, price(problems))
        return cls(problems.rate.double() * problems.n_features, None)

    def at(self, kept: Tensor) -> Self:
        """Return some of the rows."""
        return type(self)(
            None if self.totals is None else self.totals[kept],
            None if self.prices is None else self.prices[kept],
        )

    def nearest(self, points: Tensor) -> Tensor:
        """Return the nearest mask to each point, ``(n, d)``."""
        if self.totals is None:
            return points.clamp(0, 1)
        return capped_simplex(points, self.totals[:, None], is_bound=True)[:, 0]

    def vertex(self, gradient: Tensor, n_most: int) -> Tensor:
        """Return the mask at which a linear function with this gradient is least, ``(n, d)``.

        One at the entries where the gradient is most negative, as many as the bound allows, a
        fraction at the last; zero where it is not negative.

        Parameters
        ----------
        gradient
            ``(n, d)``.
        n_most
            At least the entries that any row may have: `n_most` of this.
        """
        if self.totals is None:
            return (gradient < 0).to(gradient)
        least, where = gradient.topk(n_most, 1, largest=False)
        places = torch.arange(n_most, device=gradient.device)
        filled = (self.totals[:, None] - places).clamp(0, 1).to(gradient) * (least < 0)
        return torch.zeros_like(gradient).scatter_(1, where, filled)

    def n_most(self) -> int:
        """Return how many entries the largest bound allows, a fraction counted as one.

        It looks at the device: ask once.
        """
        return 0 if self.totals is None else int(self.totals.max().ceil())

    def gap(self, masks: Tensor, gradient: Tensor, n_most: int) -> Tensor:
        """Return ``max_v <g, s - v>`` over the masks v that are allowed, ``(n,)``, >= 0.

        Of a convex objective it bounds how much there is to gain (Jaggi 2013).
        """
        return dots(gradient, masks - self.vertex(gradient, n_most)).clamp(min=0)

    def priced(self, masks: Tensor, distortion: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective, ``(n,)``, and its gradient, from those of the distortion."""
        if self.prices is None:
            return distortion, gradient
        prices = self.prices.to(distortion)
        per_entry = (prices / masks.shape[1])[:, None]
        return distortion + prices * masks.mean(1).to(distortion), gradient + per_entry
