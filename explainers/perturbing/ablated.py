"""Features taken out one at a time: what is lost, by one draw of the fill or the mean of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.perturbing.estimate import Estimate
from explainers.perturbing.stopping import streamed
from explainers.regions import without_each
from explainers.sampling import chunks
from explainers.sampling.map_moments import MapMoments

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.perturbing.game import Game

TABLE_ELEMENTS = 2**23
"""Of the table of coalitions that is made at once, a byte each: with every value of a photograph a
feature of its own, all coalitions together would take 22 GB."""


def ablated(game: Game, n_draws: int = 1, tolerance: float | None = None) -> Estimate:
    """Return what each feature is worth to all others, ``value(all) - value(all but i)``.

    Parameters
    ----------
    game
        Of the features.
    n_draws
        How many draws of the fill are averaged; a sample's n-th draw is the same for all features.
    tolerance
        Of the standard error, with which a row is done before: see `stopping.is_precise`.

    Returns
    -------
    Estimate
        With the standard error of the mean, where the fill is random.
    """
    at_once = max(1, TABLE_ELEMENTS // game.n_features**2)

    def moments(rows: Tensor, draws: range) -> MapMoments:
        part = game if len(rows) == game.n_rows else game.of_rows(rows)
        full = part.full[:, None]
        pieces = (draws[some] for some in chunks.pieces(len(draws), at_once))
        return MapMoments.over(full - _without_one(part, piece) for piece in pieces)

    every = torch.arange(game.n_rows, device=game.full.device)
    found = streamed(moments, every, n_draws, tolerance)
    n_evaluations = 1 + found.n_units * game.n_features
    return Estimate(found.mean, n_evaluations, found.error if game.is_random else None)


def _without_one(game: Game, draws: range) -> Tensor:
    """Return the values of all coalitions that lack one feature, ``(draws, rows, features)``."""
    found = without_each(game, draws)
    if found is not None:
        return found
    n_features, n_draws = game.n_features, len(draws)
    n_pairs = n_draws * n_features
    found = game.full.new_empty(game.n_rows, n_pairs)
    for some in chunks.pieces(n_pairs, max(1, TABLE_ELEMENTS // n_features)):
        pairs = torch.arange(some.start, some.stop)
        missing = (pairs % n_features).to(game.rows)
        there = torch.ones(len(pairs), n_features, dtype=torch.bool, device=missing.device)
        there.scatter_(1, missing[:, None], False)
        found[:, some] = game.values(there, replicates=draws.start + pairs // n_features)
    return found.view(game.n_rows, n_draws, n_features).movedim(1, 0)
