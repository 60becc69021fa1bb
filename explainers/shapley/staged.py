"""Estimates that are linear in what a shared design observes, in one go or until they will do."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from explainers.perturbing.estimate import Estimate
from explainers.perturbing.stopping import is_precise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from explainers.shapley.design import Design, Options
    from explainers.shapley.estimator import GameLike

_GROWTH = 1.5
"""From stage to stage, where a row may be done early: what is evaluated beyond need is at most a
third, and all solutions together cost less than half more than the last."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a fit finds for some rows."""

    values: Tensor
    """``(rows, features)``."""
    standard_error: Tensor
    """``(rows, features)``."""
    residual: Tensor
    """``(rows,)``."""


class Fit(Protocol):
    """A design solved, once for all rows."""

    def found(self, observed: Tensor, rise: Tensor) -> Found:
        """Return Shapley values of rows.

        Parameters
        ----------
        observed
            Float64 ``(rows, coalitions)``: of pairs half of what the member is worth more than its
            complement, of single coalitions what they are worth more than none.
        rise
            What all features are worth more than none, float64 ``(rows,)``.
        """


@contextmanager
def one_thread() -> Iterator[None]:
    """Solve on one thread: sums of products over several differ by 1e-12 with their number.

    That is enough for the last bit of a map to depend on how many cores a worker has.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def coalitions(options: Options, n_evaluations: int) -> int:
    """Return how many coalitions (pairs, where paired) a budget buys beside the two ends."""
    return (n_evaluations - 2) // (2 if options.paired else 1)


def used(options: Options, n_features: int, n_evaluations: int) -> int:
    """Return how many of the evaluations that may be looked at are."""
    n_coalitions = coalitions(options, n_evaluations)
    if not options.replacement:
        n_coalitions = min(n_coalitions, options.all_of(n_features))
    return 2 + n_coalitions * (2 if options.paired else 1)


def estimate(
    game: GameLike,
    design: Design,
    solved: Callable[[int], Fit],
    first: int,
    tolerance: float | None,
) -> Estimate:
    """Return estimates of all rows of a game.

    Without tolerance the whole design is evaluated. With it, the design grows by half from stage to
    stage until a row `is_precise`. Stages depend on the design alone, and what was evaluated before
    is kept.

    Parameters
    ----------
    game
        Of all rows.
    design
        At its full length.
    solved
        Number of coalitions, from the first on, to their solution.
    first
        Coalitions of the first stage.
    tolerance
        Relative; None for the whole design.
    """
    n_rows, n_all = game.n_rows, len(design.members)
    here = torch.arange(n_rows, device=game.full.device)
    empty, rise = game.empty.double(), (game.full - game.empty).double()
    observed = rise.new_empty(n_rows, n_all)
    values = rise.new_empty(n_rows, game.n_features)
    standard_error, residual = torch.empty_like(values), torch.empty_like(rise)
    n_evaluations = torch.zeros_like(here)
    start = 0
    for stop in [n_all] if tolerance is None else _stages(first, n_all):
        observed[here, start:stop] = _observed(game, design, slice(start, stop), here, empty)
        found = solved(stop).found(observed[here, :stop], rise[here])
        values[here], standard_error[here] = found.values, found.standard_error
        residual[here] = found.residual
        n_evaluations[here] = 2 + stop * (2 if design.options.paired else 1)
        if stop < n_all:
            here = here[~is_precise(found.values, found.standard_error, tolerance)]
        if not len(here):
            break
        start = stop
    kind = game.full.dtype
    return Estimate(values.to(kind), n_evaluations, standard_error.to(kind), residual.to(kind))


def _observed(game: GameLike, design: Design, some: slice, rows: Tensor, empty: Tensor) -> Tensor:
    members = design.members[some].to(rows.device)
    if not design.options.paired:
        return game.values(members, rows=rows).double() - empty[rows, None]
    pairs = torch.stack([members, ~members], 1).flatten(0, 1)
    replicates = torch.arange(some.start, some.stop).repeat_interleave(2)
    values = game.values(pairs, rows=rows, replicates=replicates).double()
    return (values[:, ::2] - values[:, 1::2]) / 2


def _stages(first: int, n_all: int) -> list[int]:
    """Return lengths of growing designs, the last of which is the whole."""
    stages = []
    length = first
    while length < n_all:
        stages.append(length)
        length = math.ceil(_GROWTH * length)
    return [*stages, n_all]
