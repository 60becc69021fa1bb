"""Features taken out one at a time: what is lost, by one draw of the fill or the mean of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.perturbing.estimate import Estimate
from explainers.regions import without_each
from explainers.sampling import chunks
from explainers.sampling.map_moments import MapMoments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.perturbing.game import Game

TABLE_ELEMENTS = 2**23
"""Of the table of coalitions that is made at once, a byte each: with every value of a photograph a
feature of its own, all coalitions together would take 22 GB."""


def ablated(game: Game, n_draws: int = 1) -> Estimate:
    """Return what each feature is worth to all others, ``value(all) - value(all but i)``.

    Parameters
    ----------
    game
        Of the features.
    n_draws
        How many draws of the fill are averaged; a sample's n-th draw is the same for all features.

    Returns
    -------
    Estimate
        With the standard error of the mean, where there is more than one draw.
    """
    at_once = max(1, TABLE_ELEMENTS // game.n_features**2)
    moments = MapMoments.over(
        game.full[:, None] - _without_one(game, draws) for draws in chunks.pieces(n_draws, at_once)
    )
    n_evaluations = torch.full_like(game.rows, 1 + n_draws * game.n_features)
    error = moments.standard_error if n_draws > 1 else None
    return Estimate(moments.mean, n_evaluations, error)


def _without_one(game: Game, draws: slice) -> Tensor:
    """Return the values of all coalitions that lack one feature, ``(draws, rows, features)``."""
    found = without_each(game, draws)
    if found is not None:
        return found
    n_features, n_draws = game.n_features, draws.stop - draws.start
    n_pairs = n_draws * n_features
    found = game.full.new_empty(game.n_rows, n_pairs)
    for some in chunks.pieces(n_pairs, max(1, TABLE_ELEMENTS // n_features)):
        pairs = torch.arange(some.start, some.stop)
        missing = (pairs % n_features).to(game.rows)
        there = torch.ones(len(pairs), n_features, dtype=torch.bool, device=missing.device)
        there.scatter_(1, missing[:, None], False)
        found[:, some] = game.values(there, replicates=draws.start + pairs // n_features)
    return found.view(game.n_rows, n_draws, n_features).movedim(1, 0)
