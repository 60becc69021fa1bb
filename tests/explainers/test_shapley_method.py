"""Methods by estimators: budgets, costs and notes, also of few features and of drawn ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import explainers
from explainers import Attribution, Network, Samples, Trace, explaining
from explainers.perturbing.stopping import is_precise
from explainers.shapley.estimator import estimators, made
from explainers.shapley.kernel import Kernel
from tests.explainers.games import TableGame
from tests.explainers.twins import seeded

generator = torch.Generator().manual_seed(5)
PICTURES = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)
BACKGROUND = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)
KERNEL, SAMPLING = "kernel_shap", "shapley_value_sampling"


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(seeded(nn.Sequential(nn.Flatten(), nn.Linear(18, 3))), PICTURES[:2])


def who(*index: int) -> Samples:
    return Samples(torch.tensor(index), torch.zeros(len(index), dtype=torch.int64))


@pytest.mark.parametrize("is_random", [False, True])
@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.parametrize("name", sorted(estimators))
def test_games_of_few_features_are_solved(name: str, n_features: int, is_random: bool) -> None:
    game = TableGame.random(n_features)
    game.is_random = is_random
    estimator = made(name, {})
    for budget in (estimator.least(n_features), estimator.default(n_features), 30):
        found = estimator.estimate(game, budget, seed=0)
        chosen = estimator.chosen(n_features, budget)
        used = chosen.used(n_features, budget, is_random=is_random)
        assert found.n_evaluations.tolist() == [used] * 3
        torch.testing.assert_close(found.values.sum(1), game.full - game.empty)
        assert found.standard_error is not None
        is_known = used >= chosen.least_with_error(n_features, is_random=is_random)
        # those of a regression depend on which coalitions were drawn
        assert found.standard_error.isfinite().all() == is_known or name == "kernel"


@pytest.mark.parametrize("features", ["channels", {"grid": 1}])
@pytest.mark.parametrize("estimator", sorted(estimators))
def test_networks_of_few_features_are_explained(
    estimator: str, features: Any, network: Network
) -> None:
    bound = explainers.get(SAMPLING)(network, features=features, estimator=estimator)
    found = bound.explain(PICTURES, 1)
    n_values = 18 if features != "channels" else 9
    rise = network(PICTURES)[:, 1] - network(torch.zeros_like(PICTURES))[:, 1]
    torch.testing.assert_close(found.relevance.sum((1, 2, 3)) / n_values, rise)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("feature_ablation", {"n_samples": 3}),
        ("feature_permutation", {"n_samples": 3}),
        (KERNEL, {"n_evaluations": 61}),
        (SAMPLING, {}),
        (SAMPLING, {"n_samples": 3}),
        (SAMPLING, {"estimator": "exact", "n_evaluations": 1540}),
        (SAMPLING, {"estimator": "odd"}),
    ],
    ids=str,
)
def test_the_cost_is_what_is_used_where_features_are_drawn(
    name: str, params: dict[str, Any], network: Network
) -> None:
    params = {**params, "features": "pixels", "background": BACKGROUND}
    found = explainers.get(name)(network, **params).explain(PICTURES, 1)
    cost = explainers.build(name, **params).cost_on(network).forward
    assert found.arrays["n_evaluations"].tolist() == [cost] * 3


@pytest.mark.parametrize(
    ("params", "least"),
    [
        ({"estimator": "permutation", "n_evaluations": 33}, 34),
        ({"n_evaluations": 34}, None),
        ({"n_samples": 2}, 34),
        ({"n_samples": 2, "antithetic": False}, None),
        ({"background": BACKGROUND, "n_evaluations": 34}, 35),
        ({"background": BACKGROUND, "n_evaluations": 35}, None),
        ({"background": BACKGROUND, "estimator": "exact"}, None),
        ({"background": BACKGROUND, "estimator": "exact", "n_evaluations": 600}, 1023),
        ({"estimator": "exact"}, None),
        ({"estimator": "odd", "n_evaluations": 6}, None),
    ],
    ids=str,
)
def test_budgets_too_small_for_standard_errors_are_noted(
    params: dict[str, Any], least: int | None, network: Network
) -> None:
    method = explainers.build(SAMPLING, features="pixels", **params)
    notes = method.notes(network)
    assert bool(notes) == (least is not None)
    assert all(f"(NaN) below {least} evaluations for 9 features" in note for note in notes)
    found = explainers.get(SAMPLING)(network, features="pixels", **params).explain(PICTURES, 1)
    assert found.arrays["standard_error"].isnan().all() == bool(notes)


def test_exact_looks_at_each_row_of_a_background(network: Network) -> None:
    """What a linear model makes of all rows is what it makes of their mean, but not of one."""
    params = {"features": "channels", "estimator": "exact"}
    found = explainers.get(SAMPLING)(network, background=BACKGROUND, **params).explain(PICTURES, 0)
    mean = BACKGROUND.mean(0)
    expected = explainers.get(SAMPLING)(network, baseline=mean, **params).attribute(PICTURES, 0)
    torch.testing.assert_close(found.relevance, expected)
    # four rows with three coalitions each, and all features
    assert found.arrays["n_evaluations"].tolist() == [13] * 3
    method = explainers.build(SAMPLING, background=BACKGROUND, **params)
    assert method.cost_on(network).forward == 13


@pytest.mark.parametrize(
    ("name", "params", "what"),
    [
        (KERNEL, {"n_evaluations": 12_000, "tolerance": 0.01}, "n_evaluations=12000"),
        (KERNEL, {"n_evaluations": 64, "tolerance": 0.01}, "tolerance=0.01"),
        (SAMPLING, {"estimator": "odd", "tolerance": 0.01}, "tolerance=0.01"),
        (SAMPLING, {"estimator": "odd", "n_evaluations": 100}, "n_evaluations=100"),
    ],
    ids=str,
)
def test_what_only_more_draws_could_do_is_refused(
    name: str, params: dict[str, Any], what: str, network: Network
) -> None:
    masks = {"masks": (torch.arange(18) % 6).view(2, 3, 3)}
    bounds = {"features": masks, "background": BACKGROUND}
    with pytest.raises(ValueError, match=f"got {what} .* ends after 64 evaluations .*permutation"):
        explainers.build(name, **bounds, **params).check(network)
    # a baseline is the same for all coalitions
    explainers.build(name, features=masks, **params).check(network)
    for others in (
        {"estimator": "permutation", "n_evaluations": 12_000, "tolerance": 0.01},
        {"estimator": "exact", "n_evaluations": 12_000},
        {"estimator": "kernel", "n_evaluations": 64},
    ):
        explainers.build(SAMPLING, **bounds, **others).check(network)
    explainers.build(KERNEL, **bounds, replacement=True, n_evaluations=12_000).check(network)


@pytest.mark.parametrize(
    ("name", "params", "n_most"),
    [
        (KERNEL, {"n_evaluations": 15}, 6),
        (KERNEL, {}, None),
        (SAMPLING, {"estimator": "exact"}, 16),
        (SAMPLING, {"n_evaluations": 20}, 10),
        (SAMPLING, {"estimator": "odd", "n_evaluations": 20}, None),
    ],
    ids=str,
)
def test_how_many_features_are_too_many_is_noted_where_they_depend_on_the_sample(
    name: str, params: dict[str, Any], n_most: int | None, network: Network
) -> None:
    n_each = [10, 17, 18]
    masks = torch.stack([(torch.arange(18) % n).view(2, 3, 3) for n in n_each])
    notes = explainers.build(name, features={"masks": masks}, **params).notes(network)
    assert [f"at most {n_most} features" in note for note in notes] == [True] * len(notes)
    assert bool(notes) == (n_most is not None)
    bound = explainers.get(name)(network, features={"masks": masks}, **params)
    if n_most is None:
        assert bound.attribute(PICTURES, 1).isfinite().all()
    else:
        with pytest.raises(ValueError, match="give what is enough for the one with the most"):
            bound.attribute(PICTURES, 1)


def test_samples_with_too_many_features_are_refused_around_a_method_too(network: Network) -> None:
    masks = torch.stack([(torch.arange(18) % n).view(2, 3, 3) for n in (4, 9, 4)])
    parameters = {"features": {"masks": masks}, "n_evaluations": 12}
    for method in (
        explainers.build(KERNEL, **parameters),
        explainers.build("smooth_grad", attribution=KERNEL, parameters=parameters),
    ):
        assert isinstance(method, Attribution)
        explaining.check_rows(method, Trace(network, PICTURES[:1], samples=who(0)))
        with pytest.raises(ValueError, match=r"n_evaluations=12 .* at least 20 for 9 features"):
            explaining.check_rows(method, Trace(network, PICTURES, samples=who(0, 1, 2)))


def test_rows_are_done_when_errors_are_known_and_small() -> None:
    values = torch.tensor([[3.0, 4.0]]).expand(3, 2)
    errors = torch.tensor([[0.3, 0.4], [0.3, 0.5], [math.nan, 0.0]])
    assert is_precise(values, errors, 0.1001).tolist() == [True, False, False]
    assert is_precise(values, errors, None).all()
    assert is_precise(values, None, 0.0).all()


def test_rows_whose_errors_are_not_known_go_on() -> None:
    game = TableGame.random(7)
    game.full[1] = math.nan
    found = Kernel().estimate(game, 100, seed=0, tolerance=1e9)
    assert found.n_evaluations.tolist() == [32, 100, 32]
