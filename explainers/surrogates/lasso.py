"""Lasso regressions of many rows to the rounding of float64, and what each point does to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from explainers.surrogates.homotopy import Homotopy
from explainers.surrogates.regression import Fitted, Regression
from explainers.surrogates.ridge import solver

if TYPE_CHECKING:
    from torch import Tensor

# Of the duality gap, as a part of what there is to explain. Paths end at some 1e-15, unless ties
# among features have led them astray.
GAP = 1e-10

# Sweeps over the features before descent gives up; the gap is looked at after every few of them.
MOST_SWEEPS = 2000
SWEEPS_PER_LOOK = 10


def lasso(problem: Regression, alpha: float) -> Fitted:
    """Return the minimisers of ``sum_k w_k (y_k - b - z_k a)^2 / (2 sum_k w_k) + alpha |a|_1``.

    Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x; weights and `alpha` as scikit-learn's
    Lasso takes them. The errors at points left out are those of a fit to the features in the
    model, with their signs, without the point (Rad and Maleki 2020, arXiv:1801.10243): exact as
    long as leaving it out changes neither; NaN where there are as many features as points.
    """
    n_slots = min(problem.features.shape)
    parts = problem.pieces(n_slots * max(problem.features.shape))
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
    n_numbers = min(problem.features.shape) * max(problem.features.shape)
    found = torch.cat([_coefficients(part, alpha) for part in again.pieces(n_numbers)])
    fits = found.view(n_rows, n_groups, -1)
    return fits.std(1, correction=0) * math.sqrt(n_groups - 1)


def _fitted(problem: Regression, alpha: float) -> Fitted:
    coefficients = _coefficients(problem, alpha)
    residuals = problem.centred_values - problem.predicted(coefficients)
    free = 1 - _leverage(problem, coefficients)
    errors = torch.where(free > GAP**0.5, residuals / free, torch.nan)
    return Fitted(coefficients, problem.intercepts(coefficients), errors)


def _coefficients(problem: Regression, alpha: float) -> Tensor:
    coefficients = Homotopy(problem, alpha).run()
    for _ in range(MOST_SWEEPS // SWEEPS_PER_LOOK):
        astray = _gap(problem, coefficients, alpha) > GAP
        if not bool(astray.any()):
            break
        rows = astray.nonzero().flatten()
        weights = problem.weights if len(problem.weights) == 1 else problem.weights[rows]
        part = Regression(problem.features, problem.values[rows], weights, problem.fit_intercept)
        coefficients[rows] = _descended(part, coefficients[rows], alpha)
    return coefficients


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


def _descended(problem: Regression, coefficients: Tensor, alpha: float) -> Tensor:
    """Return better coefficients by cyclic coordinate descent (Friedman et al. 2010)."""
    own = problem.shares @ problem.features.square() - problem.feature_means.square()
    residuals = problem.centred_values - problem.predicted(coefficients)
    found = coefficients.clone()
    for _ in range(SWEEPS_PER_LOOK):
        for feature in range(found.shape[1]):
            column = problem.features[:, feature] - problem.feature_means[:, feature, None]
            curve = own[:, feature]
            pull = (problem.shares * column * residuals).sum(1) + curve * found[:, feature]
            shrunk = pull.sign() * (pull.abs() - alpha).clamp(min=0)
            better = torch.where(curve > 0, shrunk / curve, 0)
            residuals -= (better - found[:, feature])[:, None] * column
            found[:, feature] = better
    return found


def _leverage(problem: Regression, coefficients: Tensor) -> Tensor:
    """Return the leverage of points on a fit of the features in the model, ``(rows, points)``."""
    is_in = coefficients != 0
    n_most = max(1, int(is_in.sum(1).max()))
    chosen = is_in.int().topk(n_most, 1).indices  # (rows, in the model)
    means = problem.feature_means.expand(len(chosen), -1).gather(1, chosen)
    columns = problem.features.T[chosen].mT - means[:, None]
    weighed = problem.shares.sqrt()[..., None] * columns * is_in.gather(1, chosen)[:, None]
    return problem.own_share + (weighed * solver(weighed, GAP)).sum(-1)
