"""Ridge and lasso of many rows at once against scikit-learn and against fits without a point."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.linear_model import Lasso, Ridge

from explainers.features import Partition
from explainers.surrogates import design, distance, regression
from explainers.surrogates.lasso import lasso, left_out
from explainers.surrogates.regression import Fitted, Regression
from explainers.surrogates.ridge import ridge

# Both solve the same small systems in float64, of condition 1e4 at most.
TOLERANCE = {"rtol": 0, "atol": 1e-9}


def problem(
    n_points: int = 30, n_features: int = 8, *, shared: bool = False, intercept: bool = True
) -> Regression:
    """Four rows of values that are not linear in the features, some of which do not matter."""
    generator = torch.Generator().manual_seed(n_points + n_features)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = (drawn(n_points, n_features) < 0).double()
    slopes = drawn(4, n_features) * (drawn(4, n_features) < 0)
    values = slopes @ features.T + (drawn(4, n_features) @ features.T).sin() + 3
    weights = drawn(1 if shared else 4, n_points).square() + 0.1
    return Regression(features, values, weights, intercept)


def by_sklearn(model: Ridge | Lasso, asked: Regression) -> Fitted:
    """Return what scikit-learn finds, row by row."""
    weights = asked.weights.expand_as(asked.values)
    coefficients, intercepts = [], []
    for values, own in zip(asked.values, weights, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(asked.features.numpy(), values.numpy(), sample_weight=own.numpy())
        coefficients.append(torch.as_tensor(model.coef_))
        intercepts.append(torch.as_tensor(model.intercept_, dtype=torch.float64))
    return Fitted(torch.stack(coefficients), torch.stack(intercepts), asked.values)


def without(asked: Regression, point: int) -> Regression:
    stays = torch.arange(len(asked.features)) != point
    return Regression(
        asked.features[stays], asked.values[:, stays], asked.weights[:, stays], asked.fit_intercept
    )


@pytest.mark.parametrize("n_features", [8, 40])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_coefficients_are_those_of_scikit_learn(
    n_features: int, shared: bool, intercept: bool
) -> None:
    asked = problem(n_features=n_features, shared=shared, intercept=intercept)
    for found, model in (
        (ridge(asked, 0.3), Ridge(alpha=0.3, fit_intercept=intercept)),
        # scikit-learn stops by a gap, so that its own coefficients are good to 1e-8 or so
        (lasso(asked, 0.05), Lasso(0.05, fit_intercept=intercept, tol=1e-13, max_iter=5000)),
    ):
        expected = by_sklearn(model, asked)
        tolerance = TOLERANCE if isinstance(model, Ridge) else {"rtol": 0, "atol": 1e-6}
        torch.testing.assert_close(found.coefficients, expected.coefficients, **tolerance)
        torch.testing.assert_close(found.intercepts, expected.intercepts, **tolerance)


@pytest.mark.parametrize("n_features", [8, 40])
@pytest.mark.parametrize("shared", [False, True])
def test_ridge_errors_and_deviations_are_those_of_fits_without_a_point(
    n_features: int, shared: bool
) -> None:
    asked = problem(20, n_features, shared=shared)
    found = ridge(asked, 0.3)
    errors, fits = [], []
    for point in range(20):
        fit = ridge(without(asked, point), 0.3)
        predicted = fit.intercepts + fit.coefficients @ asked.features[point]
        errors.append(asked.values[:, point] - predicted)
        fits.append(fit.coefficients)
    spread = torch.stack(fits).std(0, correction=0) * 19**0.5
    torch.testing.assert_close(found.errors, torch.stack(errors, 1), **TOLERANCE)
    torch.testing.assert_close(found.standard_error, spread, **TOLERANCE)
    mean = (asked.shares * torch.stack(errors, 1).square()).sum(1).sqrt()
    torch.testing.assert_close(found.residual(asked.shares), mean, **TOLERANCE)


def test_lasso_errors_are_exact_where_a_point_decides_about_no_feature() -> None:
    asked = problem(60, 5)
    found = lasso(asked, 1e-7)
    for point in range(0, 60, 7):
        fit = lasso(without(asked, point), 1e-7)
        predicted = fit.intercepts + fit.coefficients @ asked.features[point]
        # the penalty counts for as much beside one point less: off by its strength
        expected = asked.values[:, point] - predicted
        torch.testing.assert_close(found.errors[:, point], expected, rtol=0, atol=1e-6)


def test_lasso_errors_are_close_where_points_do() -> None:
    asked = problem(80, 20)
    stays = ~torch.eye(80, dtype=torch.bool)
    weights = (asked.weights[:, None] * stays).flatten(0, 1)
    fits = lasso(Regression(asked.features, asked.values.repeat_interleave(80, 0), weights), 0.05)
    predicted = fits.intercepts.view(4, 80) + (
        fits.coefficients.view(4, 80, -1) * asked.features
    ).sum(-1)
    mean = (asked.shares * (asked.values - predicted).square()).sum(1).sqrt()
    # Rad and Maleki find a per cent or two with as many points a feature
    residual = lasso(asked, 0.05).residual(asked.shares)
    torch.testing.assert_close(residual, mean, rtol=0.05, atol=0)


def test_a_model_with_as_many_features_as_points_cannot_be_judged() -> None:
    assert bool(lasso(problem(9, 30), 1e-6).residual(problem(9, 30).shares).isnan().all())


def test_lasso_deviations_are_those_of_fits_without_a_tenth_of_the_points() -> None:
    asked = problem(35, 6)
    fits = []
    for group in range(10):
        stays = torch.arange(35) % 10 != group
        fits.append(
            lasso(
                Regression(asked.features[stays], asked.values[:, stays], asked.weights[:, stays]),
                0.05,
            ).coefficients
        )
    spread = torch.stack(fits).std(0, correction=0) * 3
    torch.testing.assert_close(left_out(asked, 0.05), spread, **TOLERANCE)


@pytest.mark.parametrize("fit", [ridge, lasso])
def test_rows_are_fitted_in_pieces_as_they_are_together(
    fit: type[ridge], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = problem()
    together = fit(asked, 0.1)
    monkeypatch.setattr(regression, "ELEMENTS", 700)
    apart = fit(asked, 0.1)
    for name in ("coefficients", "intercepts", "errors"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name), **TOLERANCE)


@pytest.mark.parametrize(("n_points", "n_features"), [(2, 6), (6, 30), (25, 12), (12, 12)])
@pytest.mark.parametrize("penalty", [1e-4, 0.05])
def test_lasso_ends_at_a_minimum_among_ties(n_points: int, n_features: int, penalty: float) -> None:
    """Of values 0 and 1, with equal weights, many features are as good as each other."""
    generator = torch.Generator().manual_seed(n_points)
    features = (torch.rand(n_points, n_features, generator=generator) < 0.5).double()
    values = (torch.rand(40, n_points, generator=generator) < 0.3).double()
    asked = Regression(features, values, torch.ones(1, n_points, dtype=torch.float64))
    found = lasso(asked, penalty).coefficients
    missing = asked.centred_values - asked.predicted(found)
    slope = asked.correlated(missing)
    # the optimality conditions: slopes at the penalty for features in the model, below for others
    in_model = found.abs() > 1e-9
    assert bool((slope.abs() <= penalty + 1e-9).all())
    torch.testing.assert_close(slope[in_model], penalty * found.sign()[in_model], rtol=0, atol=1e-9)


def test_values_that_do_not_vary_have_no_coefficients() -> None:
    asked = Regression(problem().features, torch.full((3, 30), 7.0).double(), problem().weights[:3])
    for found in (lasso(asked, 0.01), ridge(asked, 0.01)):
        torch.testing.assert_close(found.coefficients, torch.zeros(3, 8).double(), **TOLERANCE)
        torch.testing.assert_close(found.intercepts, torch.full((3,), 7.0).double(), **TOLERANCE)


def test_values_that_are_not_finite_spoil_their_own_row_alone() -> None:
    asked = problem()
    values = asked.values.clone()
    values[1, 4] = torch.nan
    spoilt = Regression(asked.features, values, asked.weights)
    for fit in (lasso, ridge):
        found, whole = fit(spoilt, 0.05).coefficients, fit(asked, 0.05).coefficients
        assert bool(found[1].isnan().all())
        torch.testing.assert_close(found[[0, 2, 3]], whole[[0, 2, 3]], **TOLERANCE)


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
@pytest.mark.parametrize("shared", [True, False])
def test_distances_are_those_of_the_perturbed_inputs(kind: str, shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    baseline = torch.randn(1, 2, 4, 5, generator=generator, dtype=torch.float64)
    cells = torch.randint(0, 6, (1 if shared else 3, 1, 4, 5), generator=generator)
    partition = Partition(cells, (6,) * len(cells), (2, 4, 5))
    coalitions = design.coalitions(0, 9, 6)
    found = distance.of_inputs(inputs, baseline, partition, coalitions, kind)
    perturbed = torch.where(partition.members(coalitions), inputs, baseline)
    if kind == "euclidean":
        expected = (inputs - perturbed).flatten(2).norm(dim=2)
    else:
        expected = 1 - torch.cosine_similarity(inputs.flatten(1), perturbed.flatten(2), dim=2)
    torch.testing.assert_close(found, expected.T, **TOLERANCE)


def test_distances_of_coalitions_are_those_of_binary_vectors() -> None:
    coalitions = torch.tensor([[True, True, True, True], [True, False, False, False], [False] * 4])
    everybody = torch.ones(4, dtype=torch.float64)
    found = distance.of_coalitions(coalitions, "coalition_cosine")[0]
    expected = 1 - torch.cosine_similarity(coalitions.double(), everybody[None])
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert distance.of_coalitions(coalitions, "hamming")[0].tolist() == [0, 0.75, 1]


def test_relative_weights_do_not_vanish() -> None:
    far = torch.tensor([[100.0, 101.0], [0.0, 1.0]], dtype=torch.float64)
    assert bool((distance.exponential(far[:1], 1.0) == 0).all())
    weights = distance.relative(far, 1.0)
    expected = distance.exponential(far[1:], 1.0)
    torch.testing.assert_close(weights[1:], expected, **TOLERANCE)
    assert weights[0, 0] == 1


def test_coalitions_do_not_depend_on_how_many_follow() -> None:
    few, many = design.coalitions(3, 20, 30), design.coalitions(3, 4000, 30)
    assert torch.equal(few, many[:20])
    # 120,000 tosses: five standard errors
    assert abs(float(many.double().mean()) - 0.5) < 0.0075
