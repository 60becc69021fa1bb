"""KernelSHAP's regression against slow least squares, Shapley's axioms, and its own errors."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from explainers.shapley import regression
from explainers.shapley.design import Design, Options, drawn
from explainers.shapley.kernel import Kernel
from tests.explainers.games import TableGame, shapley_by_permutations

if TYPE_CHECKING:
    from explainers.perturbing.estimate import Estimate

EVERY = [Kernel(*chosen) for chosen in product([True, False], repeat=3)]


def assert_same(found: Tensor | None, expected: Tensor) -> None:
    """Sums of a hundred numbers of about one, and well-posed equations of them, in float64."""
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def design_of(estimator: Kernel, n_features: int, n_evaluations: int, seed: int) -> Design:
    """Return the design that the estimator takes, where its first draw does."""
    n_coalitions = (n_evaluations - 2) // (2 if estimator.paired else 1)
    return drawn(n_features, n_coalitions, seed, estimator.options)


def slow_regression(game: TableGame, members: Tensor, weights: Tensor) -> Tensor:
    """Return least squares with the constraint put in for the last feature, row by row."""
    there = members.double()
    # phi_last = rise - sum of the others
    columns = there[:, :-1] - there[:, -1:]
    root = weights.sqrt()[:, None]
    values = []
    for row in range(game.n_rows):
        rise = game.full[row] - game.empty[row]
        rest = game.value(members)[row] - game.empty[row] - there[:, -1] * rise
        solution = torch.linalg.lstsq(root * columns, root * rest[:, None]).solution[:, 0]
        values.append(torch.cat([solution, (rise - solution.sum())[None]]))
    return torch.stack(values)


def relabelled(game: TableGame, order: Tensor) -> TableGame:
    """Return the game in which feature i is called ``order[i]``."""
    return TableGame(game.n_features, lambda coalitions: game.value(coalitions[:, order]))


@pytest.mark.parametrize("estimator", EVERY)
def test_it_is_the_weighted_least_squares_of_all_that_was_evaluated(estimator: Kernel) -> None:
    game = TableGame.random(7)
    design = design_of(estimator, 7, 62, seed=3)
    weights, _ = design.weights(len(design.members))
    members = design.members
    if estimator.paired:
        members, weights = torch.cat([members, ~members]), torch.cat([weights, weights])
    found = estimator.estimate(game, 62, 3)
    assert_same(found.values, slow_regression(game, members, weights))
    assert game.n_evaluations == 60
    assert found.n_evaluations.tolist() == [62] * 3


@pytest.mark.parametrize("n_features", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("stratified", [True, False])
def test_it_is_exact_once_all_coalitions_are_seen(
    n_features: int, paired: bool, stratified: bool
) -> None:
    game = TableGame.random(n_features)
    estimator = Kernel(paired, stratified)
    found = estimator.estimate(game, 2**n_features, 0)
    assert_same(found.values, shapley_by_permutations(game))
    assert found.standard_error is not None
    assert (found.standard_error == 0).all()
    assert estimator.used(n_features, 10**6) == 2**n_features


@pytest.mark.parametrize("estimator", EVERY)
def test_values_sum_to_the_rise_and_are_linear_in_the_game(estimator: Kernel) -> None:
    first, second = TableGame.random(8, seed=1), TableGame.random(8, seed=2)
    both = TableGame(8, lambda coalitions: 2 * first.value(coalitions) - second.value(coalitions))
    found = [estimator.estimate(game, 40, 0).values for game in (first, second, both)]
    assert_same(found[0].sum(1), first.full - first.empty)
    assert_same(2 * found[0] - found[1], found[2])


@pytest.mark.parametrize("estimator", EVERY)
def test_games_without_interaction_are_solved_by_any_design(estimator: Kernel) -> None:
    """A feature that changes nothing is worth nothing then; else only once all pairs are seen."""
    worth = torch.tensor([[1.0, -2.0, 0.0, 4.0, 0.5, 3.0]], dtype=torch.float64)
    game = TableGame(6, lambda coalitions: 7 + worth @ coalitions.double().T)
    found = estimator.estimate(game, estimator.least(6) + 10, 0)
    assert_same(found.values, worth)
    assert found.residual is not None
    assert found.residual.max() < 1e-10


def test_features_are_told_apart_by_the_game_alone() -> None:
    """The solution of a design in which features swap names is the solution, renamed."""
    order = torch.tensor([3, 0, 5, 1, 4, 2, 6])
    design = drawn(7, 30, 0, Options())
    renamed = Design(design.members[:, order], design.times, design.options)
    device = torch.device("cpu")
    plain = regression.solved(design, 30, device)
    assert_same(regression.solved(renamed, 30, device).matrix, plain.matrix[order])


@pytest.mark.parametrize("paired", [True, False])
def test_the_residual_is_of_coalitions_left_out_as_often_as_they_came(paired: bool) -> None:
    game = TableGame.random(6, n_rows=2)
    estimator = Kernel(paired=paired, replacement=True)
    design = design_of(estimator, 6, 42, seed=0)
    weights, _ = design.weights(len(design.members))
    members, errors = design.members, []
    for left in range(len(members)):
        others = (members != members[left]).any(1)
        rest, weight = members[others], weights[others]
        if paired:
            rest, weight = torch.cat([rest, ~rest]), torch.cat([weight, weight])
        values = slow_regression(game, rest, weight)
        one = members[[left]]
        if paired:
            observed = (game.value(one) - game.value(~one))[:, 0] / 2
            told = values @ (one[0].double() - 0.5)
        else:
            observed = game.value(one)[:, 0] - game.empty
            told = values @ one[0].double()
        errors.append(observed - told)
    expected = torch.stack(errors).square().mean(0).sqrt()
    found = estimator.estimate(game, 42, 0)
    assert_same(found.residual, expected)


@pytest.mark.parametrize("estimator", EVERY)
def test_an_error_that_cannot_be_known_is_not_zero(estimator: Kernel) -> None:
    """No value of a random game is right by chance: where the error is 0, no pair was left out."""
    for n_features in (3, 4, 6):
        game = TableGame.random(n_features, n_rows=1)
        for seed in range(4):
            found = estimator.estimate(game, 2 * n_features + 1, seed)
            assert found.standard_error is not None
            assert not (found.standard_error < 1e-9).any()


def test_one_coalition_drawn_again_and_again_tells_nothing() -> None:
    """Captum's preset, two features: of six seeds, which draw two coalitions each, some do so."""
    game = TableGame.random(2)
    estimator = Kernel(paired=False, stratified=False, replacement=True)
    unknown = []
    for seed in range(6):
        once = len(design_of(estimator, 2, 4, seed).members.unique(dim=0)) == 1
        found = estimator.estimate(game, 4, seed, tolerance=1e9)
        assert found.standard_error is not None
        assert found.residual is not None
        assert found.standard_error.isnan().all() == found.residual.isnan().all() == once
        unknown.append(once)
    assert 0 < sum(unknown) < 6


def test_rows_without_errors_are_not_done() -> None:
    """Of two features there is one pair, which comes again and again."""
    found = Kernel(replacement=True).estimate(TableGame.random(2), 200, 0, tolerance=1e9)
    assert found.n_evaluations.tolist() == [200] * 3


def test_a_design_that_has_no_room_is_refused_before_anything_is_evaluated() -> None:
    with pytest.raises(ValueError, match="got 150528 pairs of coalitions of 150528 features"):
        Kernel().check(150_528, None)
    with pytest.raises(ValueError, match=r"such as \{grid: 14\}"):
        Kernel().check(3072, 100_000)
    Kernel().check(3072, None)
    Kernel(paired=False).check(3072, None)
    assert Kernel().default(3072) < 20 * 3072
    # of few features there are not so many coalitions
    Kernel().check(12, 10**9)


def test_rows_that_are_done_leave_and_the_others_go_on() -> None:
    n_features = 10
    worth = torch.linspace(-1, 1, n_features, dtype=torch.float64)
    noise = TableGame.random(n_features, n_rows=1, seed=4)
    asked: list[tuple[int, int]] = []

    def value(coalitions: Tensor) -> Tensor:
        plain = (worth @ coalitions.double().T)[None]
        return torch.cat([plain, plain + noise.value(coalitions)])

    class Watched(TableGame):
        def values(
            self, coalitions: Tensor, rows: Tensor | None = None, replicates: Tensor | None = None
        ) -> Tensor:
            assert rows is not None
            asked.append((len(coalitions), len(rows)))
            return super().values(coalitions, rows, replicates)

    estimator = Kernel()
    found = estimator.estimate(Watched(n_features, value), 400, 0, tolerance=0.2)
    easy, hard = found.n_evaluations.tolist()
    assert easy == 2 * estimator.least(n_features)
    assert easy < hard
    assert [rows for _, rows in asked] == [2] + [1] * (len(asked) - 1)
    assert sum(evaluations for evaluations, _ in asked) == hard - 2
    assert found.standard_error is not None
    assert found.standard_error[1].square().mean() <= (0.2**2) * found.values[1].square().mean()
    alone = TableGame(n_features, lambda coalitions: value(coalitions)[1:])
    again = estimator.estimate(alone, 400, 0, tolerance=0.2)
    assert_same(found.values[1:], again.values)
    assert again.n_evaluations.tolist() == [hard]


def test_a_stage_is_what_the_whole_budget_of_its_length_would_be_but_for_the_draw() -> None:
    game = TableGame.random(9)
    estimator = Kernel()
    whole = estimator.estimate(game, 300, 0)
    staged = estimator.estimate(game, 300, 0, tolerance=0.0)
    assert_same(staged.values, whole.values)
    assert staged.n_evaluations.tolist() == whole.n_evaluations.tolist()


@pytest.mark.parametrize("estimator", EVERY)
def test_the_least_budget_always_does(estimator: Kernel) -> None:
    for n_features in (2, 4, 8):
        game = TableGame.random(n_features, n_rows=1)
        budget = estimator.least(n_features)
        for seed in range(4):
            found = estimator.estimate(game, budget, seed)
            assert found.values.isfinite().all()
            assert found.n_evaluations.item() <= budget


def test_a_design_that_never_determines_the_values_is_refused() -> None:
    with pytest.raises(ValueError, match="do not determine the values of 9 features"):
        regression.determined(9, 4, 4, 0, Options())


def test_single_precision_games_give_single_precision_values() -> None:
    game = TableGame.random(6)
    single = TableGame(6, lambda coalitions: game.value(coalitions).float())
    found = Kernel().estimate(single, 40, 0)
    assert found.values.dtype == torch.float32
    assert found.residual is not None
    assert found.residual.dtype == torch.float32


def covered(found: Estimate, expected: Tensor) -> Tensor:
    """Return how often a value is within 1.96 standard errors of the truth."""
    assert found.standard_error is not None
    return ((found.values - expected).abs() <= 1.96 * found.standard_error).double().mean()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", EVERY)
def test_standard_errors_cover(estimator: Kernel) -> None:
    """Over 60 designs; errors of features of one design are not independent of each other."""
    game = TableGame.random(8, n_rows=6)
    expected = Kernel().estimate(game, 256, 0).values
    found = [covered(estimator.estimate(game, 90, seed), expected) for seed in range(60)]
    assert 0.9 <= torch.stack(found).mean() <= 0.985
