"""Lasso regressions of many rows to the rounding of float64, and what each point does to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from explainers.surrogates.homotopy import end_of_path
from explainers.surrogates.regression import Fitted, Regression
from explainers.surrogates.ridge import solver

if TYPE_CHECKING:
    from torch import Tensor

GAP = 1e-10
"""Of primal and dual, as a part of what there is to explain, at which a solution is one: paths end
at some 1e-13."""

LOST = 1e-6
"""A gap of more than this is no rounding: scikit-learn stops at 1e-4."""

JITTER = 1e-10
"""Added to the squares of features in the model, which may depend on each other."""

CERTAIN = 1e-5
"""A point whose leverage is nearer to 1 than this cannot be left out: nothing else tells of it."""

MOST_SETS = 50
"""Of features that are looked at together, where there are too many for all at once: far more than
were ever needed."""


def lasso(problem: Regression, alpha: float) -> Fitted:
    """Return the minimisers of ``sum_k w_k (y_k - b - z_k a)^2 / (2 sum_k w_k) + alpha |a|_1``.

    Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x; weights and `alpha` as scikit-learn's
    Lasso takes them. The errors at points left out are those of a fit to the features in the
    model, with their signs, without the point (Rad and Maleki 2020, arXiv:1801.10243): exact as
    long as leaving it out changes neither; NaN where there are as many features as points.
    """
    parts = problem.pieces(_n_numbers(problem))
    return Fitted.joined([_fitted(part, alpha) for part in parts])


def left_out(problem: Regression, alpha: float, n_groups: int = 10) -> Tensor:
    """Return the standard error of lasso's coefficients by the jackknife, ``(rows, features)``.

    Every n-th of the points is left out in turn, ``(n - 1) / n`` times the sum of squared
    deviations of the n fits from their mean (Quenouille 1956; Tukey 1958): features that only some
    of the fits let in have an error, too.
    """
    n_points = problem.features.shape[0]
    n_groups = min(n_groups, n_points)
    groups = torch.arange(n_points, device=problem.values.device) % n_groups
    stays = groups != torch.arange(n_groups, device=groups.device)[:, None]
    n_rows = len(problem.values)
    weights = (problem.weights[:, None] * stays).expand(n_rows, -1, -1).flatten(0, 1)
    values = problem.values.repeat_interleave(n_groups, 0)
    again = Regression(problem.features, values, weights, problem.fit_intercept)
    parts = again.pieces(_n_numbers(problem))
    found = torch.cat([_coefficients(part, alpha) for part in parts])
    fits = found.view(n_rows, n_groups, -1)
    return fits.std(1, correction=0) * math.sqrt(n_groups - 1)


def _n_numbers(problem: Regression) -> int:
    """Return the numbers that the path of one row takes."""
    n_chosen = _n_chosen(problem)
    return n_chosen * (n_chosen + len(problem.features))


def _n_chosen(problem: Regression) -> int:
    """Return how many features are looked at together: all, or as can be in the model and more.

    A quarter more was fastest at 784 features and 200 points, and as fast as twice as many at 50.
    """
    n_points, n_features = problem.features.shape
    return min(n_features, n_points + n_points // 4 + 1)


def _fitted(problem: Regression, alpha: float) -> Fitted:
    coefficients = _coefficients(problem, alpha)
    residuals = problem.centred_values - problem.predicted(coefficients)
    free = 1 - _leverage(problem, coefficients)
    errors = torch.where(free > CERTAIN, residuals / free, torch.nan)
    return Fitted(coefficients, problem.intercepts(coefficients), errors)


def _coefficients(problem: Regression, alpha: float) -> Tensor:
    """Return the coefficients, ``(rows, features)``; NaN where the path did not arrive."""
    n_features = problem.features.shape[1]
    found = problem.values.new_zeros(len(problem.values), n_features)
    gap = _gap(problem, found, alpha)
    for _ in range(MOST_SETS if _n_chosen(problem) < n_features else 1):
        rows = (gap > GAP).nonzero().flatten()
        if not len(rows):
            break
        found[rows] = _followed(problem.of(rows), found[rows], alpha)
        gap = _gap(problem, found, alpha)
    return torch.where((gap <= LOST)[:, None], found, torch.nan)


def _followed(problem: Regression, coefficients: Tensor, alpha: float) -> Tensor:
    """Return the solutions among those in the model and of the others those that pull most."""
    missing = problem.centred_values - problem.predicted(coefficients)
    pull = problem.correlated(missing).abs().masked_fill(coefficients != 0, torch.inf)
    chosen = pull.topk(_n_chosen(problem), 1).indices
    means = problem.feature_means.expand(len(chosen), -1).gather(1, chosen)
    columns = (problem.features.T[chosen] - means[..., None]) * problem.shares.sqrt()[:, None]
    correlations = problem.correlated(problem.centred_values).gather(1, chosen)
    found = end_of_path(columns @ columns.mT, correlations, alpha)
    return torch.zeros_like(coefficients).scatter_(1, chosen, found)


def _gap(problem: Regression, coefficients: Tensor, alpha: float) -> Tensor:
    """Return the duality gap over half the sum of squares that there is to explain, ``(rows,)``."""
    values, shares = problem.centred_values, problem.shares
    residuals = values - problem.predicted(coefficients)
    steepest = ((shares * residuals) @ problem.features).abs().amax(1)
    scale = (alpha / steepest.clamp(min=alpha))[:, None]
    primal = (shares * residuals.square()).sum(1) / 2 + alpha * coefficients.abs().sum(1)
    total = (shares * values.square()).sum(1) / 2
    dual = total - (shares * (values - scale * residuals).square()).sum(1) / 2
    return (primal - dual) / total.clamp(min=torch.finfo(total.dtype).tiny)


def _leverage(problem: Regression, coefficients: Tensor) -> Tensor:
    """Return the leverage of points on a fit of the features in the model, ``(rows, points)``."""
    is_in = coefficients.abs() > 0  # not where they are NaN
    n_most = max(1, int(is_in.sum(1).max()))
    chosen = is_in.int().topk(n_most, 1).indices  # (rows, in the model)
    means = problem.feature_means.expand(len(chosen), -1).gather(1, chosen)
    columns = problem.features.T[chosen].mT - means[:, None]
    weighed = problem.shares.sqrt()[..., None] * columns * is_in.gather(1, chosen)[:, None]
    return problem.own_share + (weighed * solver(weighed, JITTER)).sum(-1)
