"""Shapley values from all coalitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from explainers.shapley import exact as exact_module
from explainers.shapley.exact import Exact
from tests.explainers.games import TableGame, shapley_by_permutations
from tests.explainers.test_shapley_permutation import DrawnGame, assert_same


def shapley(game: TableGame) -> Tensor:
    return Exact().estimate(game, 2**game.n_features, seed=0).values


@pytest.mark.parametrize("n_features", [1, 2, 4, 5])
def test_values_are_the_definition(n_features: int) -> None:
    game = TableGame.random(n_features)
    found = Exact().estimate(game, 2**n_features, seed=0)
    assert_same(found.values, shapley_by_permutations(game))
    assert found.n_evaluations.tolist() == [2**n_features] * 3
    assert game.n_evaluations == 2**n_features - 2
    assert found.standard_error is not None
    assert not found.standard_error.any()


def test_values_sum_to_the_whole() -> None:
    game = TableGame.random(9)
    assert_same(shapley(game).sum(1), game.full - game.empty)


def test_features_that_can_be_exchanged_get_the_same() -> None:
    inner = TableGame.random(6)

    def value(coalitions: Tensor) -> Tensor:
        exchanged = coalitions[:, [3, 1, 2, 0, 4, 5]]
        return inner.value(coalitions) + inner.value(exchanged)

    found = shapley(TableGame(6, value))
    assert_same(found[:, 0], found[:, 3])
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_a_feature_that_does_nothing_gets_nothing() -> None:
    inner = TableGame.random(5)
    found = shapley(TableGame(6, lambda coalitions: inner.value(coalitions[:, 1:])))
    assert_same(found[:, 0], torch.zeros(3, dtype=torch.float64))
    assert_same(found[:, 1:], shapley(inner))


def test_values_are_linear_in_the_game() -> None:
    one, other = TableGame.random(5, seed=1), TableGame.random(5, seed=2)
    both = TableGame(5, lambda coalitions: 2 * one.value(coalitions) - other.value(coalitions))
    assert_same(shapley(both), 2 * shapley(one) - shapley(other))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    game = TableGame.random(7)
    expected = shapley(game)
    monkeypatch.setattr(exact_module, "_AT_ONCE", 10)
    assert_same(shapley(game), expected)


def test_values_of_sixteen_features_are_exact_too() -> None:
    weights = torch.linspace(-1, 1, 16, dtype=torch.float64)

    def value(coalitions: Tensor) -> Tensor:
        there = coalitions.double()
        return ((there @ weights) + there[:, 0] * there[:, 5] * there[:, 15])[None]

    expected = weights.clone()
    # a product of three is shared by the three alike
    expected[[0, 5, 15]] += 1 / 3
    assert_same(shapley(TableGame(16, value))[0], expected)


def test_drawn_fills_give_a_mean_over_draws_with_its_error() -> None:
    game = DrawnGame(4, n_draws=3)
    found = Exact().estimate(game, 1 + 3 * 15, seed=0)
    assert_same(found.values, shapley_by_permutations(game))
    assert found.n_evaluations.tolist() == [46] * 3
    assert found.standard_error is not None
    assert bool((found.standard_error > 0).all())
    once = Exact().estimate(game, 16, seed=0)
    assert once.standard_error is not None
    assert bool(once.standard_error.isnan().all())


def test_too_many_features_and_too_small_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="got 17 features, expected at most 16"):
        Exact().check(17, None)
    with pytest.raises(ValueError, match=r"n_evaluations=1000 for .* at least 1024 for 10"):
        Exact().check(10, 1000)
