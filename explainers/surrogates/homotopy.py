"""The path of lasso solutions from no feature to a given penalty, of many rows at once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

DEPENDENT = 1e-10
"""A feature whose part of its own, beside those in the model, is less than this times the largest
feature does not enter it; and an event that is approached more slowly than this is none."""

STEPS_PER_LOOK = 8
"""Steps between two looks at whether rows are done: each look waits for the device."""


def end_of_path(gram: Tensor, correlations: Tensor, penalty: float) -> Tensor:
    """Return the minimisers a of ``a G a / 2 - c a + penalty |a|_1``, ``(rows, features)``.

    They are linear in the penalty between those at which a feature enters or leaves; the path is
    followed from the first that enters (Osborne, Presnell and Turlach 2000,
    doi:10.1093/imanum/20.3.389; Efron et al. 2004, doi:10.1214/009053604000000067), for each row
    its own. Rows that have not arrived after as many steps as paths have in practice are where
    they are: whoever asks has to look.

    Parameters
    ----------
    gram
        G, symmetric and positive semidefinite, ``(rows, features, features)``.
    correlations
        c, ``(rows, features)``.
    penalty
        Positive.
    """
    found = torch.zeros_like(correlations)
    here = torch.arange(len(found), device=found.device)
    path = Path(gram, correlations)
    for _ in range(1 + path.n_features):
        for _ in range(STEPS_PER_LOOK):
            path.step(penalty)
        found[here] = path.coefficients
        live = path.levels > penalty
        here, path = here[live], path.of(live)
        if not len(here):
            break
    return found


class Path:
    """Where rows are on their paths, as a table that is pivoted.

    With A the features in the model and G the Gram matrix, the table holds ``G_AA^-1`` at ``[A,
    A]``, ``G_AA^-1 G_AA'`` at ``[A, A']``, its negative transposed at ``[A', A]`` and what the
    others A' have of their own, ``G_A'A' - G_A'A G_AA^-1 G_AA'``, at ``[A', A']``. A last column
    starts as the correlations. A feature enters or leaves by a pivot, an update of rank one.
    """

    def __init__(self, gram: Tensor, correlations: Tensor) -> None:
        self.n_features = gram.shape[1]
        self.table = torch.cat([gram, correlations[..., None]], 2)
        self.signs = torch.zeros_like(correlations)
        """Of the features in the model, zero for others, ``(rows, features)``."""
        self.coefficients = torch.zeros_like(correlations)
        """At the penalty, if it has been passed."""
        self.levels = torch.full_like(correlations[:, 0], torch.inf)
        """Penalty at which the last feature entered or left, ``(rows,)``."""
        self.least = DEPENDENT * gram.diagonal(dim1=1, dim2=2).amax(1)
        """What a feature has to have of its own, ``(rows,)``."""
        self._rows = torch.arange(len(gram), device=gram.device)

    def of(self, rows: Tensor) -> Path:
        """Return the paths of some rows."""
        chosen = copy.copy(self)
        for name in ("table", "signs", "coefficients", "levels", "least"):
            setattr(chosen, name, getattr(self, name)[rows])
        chosen._rows = self._rows[: len(chosen.levels)]
        return chosen

    def step(self, penalty: float) -> None:
        """Go to the next event of each row, and let its feature in or out."""
        signs, n_features = self.signs, self.n_features
        start = self.table[..., n_features]
        slopes = torch.bmm(self.table[..., :n_features], signs[..., None])[..., 0]
        is_in = signs.abs()
        here = torch.sub(start, slopes, alpha=penalty).mul_(is_in)
        self.coefficients = torch.where((self.levels > penalty)[:, None], here, self.coefficients)
        # events are at penalties numerator / denominator, if they are approached: a coefficient
        # comes to zero, or what is not explained of a feature to the penalty or its negative
        is_out = 1 - is_in
        flip = is_out - signs
        numerators = torch.cat([flip * start, -start], 1)
        towards = torch.addcmul(is_out, flip, slopes)
        away = torch.addcmul(is_out, is_out, slopes, value=-1)
        denominators = torch.cat([towards, away], 1)
        events = torch.where(denominators > DEPENDENT, numerators / denominators, 0)
        levels, event = events.max(1)
        self.levels = torch.minimum(levels, self.levels)
        feature = event % n_features
        self._pivot(feature)
        signs[self._rows, feature] = torch.cat([is_out, -is_out], 1)[self._rows, event]

    def _pivot(self, feature: Tensor) -> None:
        rows = self._rows
        across, down = self.table[rows, feature], self.table[rows, :, feature]
        own = down[rows, feature]
        # a feature that depends on those in the model is wiped out: its coefficient stays zero
        inverse = torch.where(own > self.least, 1 / own, 0)
        share = down * inverse[:, None]
        share[rows, feature] = 1 - inverse
        self.table.baddbmm_(share[..., None], across[:, None], alpha=-1)
        share.neg_()
        share[rows, feature] = inverse
        self.table[rows, :, feature] = share
