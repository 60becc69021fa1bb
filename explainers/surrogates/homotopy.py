"""The path of lasso solutions from no feature to a given penalty, of many rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.surrogates.regression import Regression

# Below this a feature is a combination of those in the model, to the rounding of float64.
DEPENDENT = 1e-10

# Rows are looked at whether all are done after so many steps: each look waits for the device.
STEPS_PER_LOOK = 8


class Homotopy:
    """Solutions of the lasso, piecewise linear in its penalty (Osborne, Presnell, Turlach 2000).

    From the penalty at which the first feature enters (doi:10.1093/imanum/20.3.389; Efron et al.
    2004, doi:10.1214/009053604000000067), every step goes to where a feature enters or leaves, for
    each row its own. The inverse of the Gram matrix of a row's features in the model is kept, in
    as many slots as can be filled, and changes by rank one.

    Parameters
    ----------
    problem
        Rows of values, features that all share.
    penalty
        Where the path ends, in units of the correlation of feature and value.
    """

    def __init__(self, problem: Regression, penalty: float) -> None:
        self.problem, self.penalty = problem, penalty
        features, values = problem.features, problem.values
        (n_points, self.n_features), n_rows = features.shape, len(values)
        n_slots = min(n_points, self.n_features)
        self.own = problem.shares @ features.square() - problem.feature_means.square()
        """Diagonal of the Gram matrix, ``(1 | rows, features)``."""
        self.correlations = self._correlated(problem.centred_values)
        """With what is not explained yet, ``(rows, features)``."""
        self.levels = self.correlations.abs().amax(1)
        """Penalty that each row has come to, ``(rows,)``."""
        self.inverse = values.new_zeros(n_rows, n_slots, n_slots)
        self.chosen = torch.zeros(n_rows, n_slots, dtype=torch.int64, device=values.device)
        """Feature of each slot, ``(rows, slots)``."""
        self.signs = values.new_zeros(n_rows, n_slots)
        """Of the feature in each slot, zero where it is free."""
        self.held = values.new_zeros(n_rows, n_slots)
        """Coefficient of the feature in each slot."""
        self.shut = self.own.expand(n_rows, -1) <= DEPENDENT
        """Features in the model, and those that cannot enter, ``(rows, features)``."""
        self._rows = torch.arange(n_rows, device=values.device)

    def run(self) -> Tensor:
        """Return the coefficients at the end of the path, ``(rows, features)``.

        Rows that have not come there after as many steps as paths have in practice are where they
        are: whoever asks has to look.
        """
        n_slots = self.signs.shape[1]
        live = self.levels > self.penalty
        entering = self.correlations.abs().masked_fill(self.shut, -1).argmax(1)
        leaving = torch.full_like(entering, -1)
        for step in range(8 * n_slots + STEPS_PER_LOOK):
            if step % STEPS_PER_LOOK == 0 and not bool(live.any()):
                break
            self._change(live, entering, leaving)
            live, entering, leaving = self._advance(live)
        return self._spread(self.held)

    def _change(self, live: Tensor, entering: Tensor, leaving: Tensor) -> None:
        """Let a feature in, or take the one in slot `leaving` out, unless that is -1."""
        rows = self._rows
        enters = leaving < 0
        used = self.signs != 0
        slots = torch.where(enters, (~used).int().argmax(1), leaving)
        column = self._column(entering).gather(1, self.chosen) * used
        change = (self.inverse @ column[..., None])[..., 0]
        own = self.own.expand(len(rows), -1)[rows, entering]
        rest = own - (column * change).sum(1)
        change[rows, slots] = -1
        change = torch.where(enters[:, None], change, self.inverse[rows, :, slots])
        scale = torch.where(enters, 1 / rest, -1 / change[rows, slots])
        is_dependent = enters & (rest <= DEPENDENT * own)
        scale = torch.where(live & ~is_dependent, scale, 0)
        self.inverse.baddbmm_((scale[:, None] * change)[..., None], change[:, None])
        # one that leaves is free to come back, one that depends on others is not
        feature = torch.where(enters, entering, self.chosen[rows, slots])
        self.shut[rows, feature] = torch.where(live, enters, self.shut[rows, feature])
        joins = live & enters & ~is_dependent
        sign = torch.where(joins, self.correlations[rows, feature].sign(), 0)
        keeps = ~live | is_dependent
        self.signs[rows, slots] = torch.where(keeps, self.signs[rows, slots], sign)
        self.held[rows, slots] = torch.where(keeps, self.held[rows, slots], 0)
        self.chosen[rows, slots] = torch.where(keeps, self.chosen[rows, slots], feature)

    def _advance(self, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Go on to the next event of each row; return who lives, what enters and what leaves."""
        used = self.signs != 0
        direction = (self.inverse @ self.signs[..., None])[..., 0] * used
        slopes = self._correlated(self.problem.predicted(self._spread(direction)))
        levels = self.levels[:, None]
        reach_up = _ratio(levels - self.correlations, 1 - slopes, ~self.shut)
        reach_down = _ratio(levels + self.correlations, 1 + slopes, ~self.shut)
        reach, entering = torch.minimum(reach_up, reach_down).min(1)
        shrink = -direction * self.signs
        vanish, leaving = _ratio(self.held * self.signs, shrink, used).min(1)
        remaining = self.levels - self.penalty
        step = torch.minimum(torch.minimum(reach, vanish), remaining)
        ends = remaining <= torch.minimum(reach, vanish)
        step = torch.where(live, step, 0)
        self.held += step[:, None] * direction
        self.correlations -= step[:, None] * slopes
        self.levels -= step
        return live & ~ends, entering, torch.where(vanish < reach, leaving, -1)

    def _column(self, features: Tensor) -> Tensor:
        """Return the Gram matrix's column of a feature of each row, ``(rows, features)``."""
        problem = self.problem
        means = problem.feature_means.expand(len(features), -1).gather(1, features[:, None])
        return self._correlated(problem.features.T[features] - means)

    def _correlated(self, centred: Tensor) -> Tensor:
        """Return weighted products of the features with centred ``(rows, points)``."""
        return (self.problem.shares * centred) @ self.problem.features

    def _spread(self, of_slots: Tensor) -> Tensor:
        used = self.signs != 0
        found = of_slots.new_zeros(len(of_slots), self.n_features)
        return found.scatter_add_(1, self.chosen, of_slots * used)


def _ratio(distance: Tensor, speed: Tensor, counts: Tensor) -> Tensor:
    """Return how far it is to an event that is approached, infinity for others."""
    approaches = counts & (speed > DEPENDENT)
    return torch.where(approaches, distance.clamp(min=0) / speed, torch.inf)
