"""Ridge regressions of many rows in closed form, and what each point does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.surrogates.regression import Fitted, Regression

if TYPE_CHECKING:
    from torch import Tensor


def ridge(problem: Regression, alpha: float) -> Fitted:
    """Return the minimisers of ``sum_k w_k (y_k - b - z_k a)^2 + alpha |a|^2`` over a and b.

    Hoerl and Kennard 1970, doi:10.1080/00401706.1970.10488634; weights and `alpha` as
    scikit-learn's Ridge takes them. The errors at points left out are exact: a point's residual
    over one minus its leverage. The standard error is the jackknife's, ``(P - 1) / P`` times the
    sum of squared changes, about their mean, that leaving one point out makes: it holds for
    values that are not linear in the features, too.

    Parameters
    ----------
    problem
        Rows with the same weights share one factorisation.
    alpha
        Strength of the penalty, positive.
    """
    n_points, n_features = problem.features.shape
    if len(problem.weights) == 1:
        return _fitted(problem, alpha)
    parts = problem.pieces(n_points * n_features)
    return Fitted.joined([_fitted(part, alpha) for part in parts])


def _fitted(problem: Regression, alpha: float) -> Fitted:
    roots = problem.weights.sqrt()
    centred = problem.features - problem.feature_means[:, None]
    weighed = roots[..., None] * centred  # (1 | rows, points, features)
    solution = solver(weighed, alpha)
    coefficients = _combined(roots * problem.centred_values, solution)
    leverage = problem.own_share + (weighed * solution).sum(-1)
    residuals = problem.centred_values - problem.predicted(coefficients)
    errors = residuals / (1 - leverage)
    n_points = errors.shape[1]
    # a point that is left out takes its row of the solution, times its error, along
    changes = roots * errors
    squares = _combined(changes.square(), solution.square())
    mean = _combined(changes, solution) / n_points
    variance = (squares - n_points * mean.square()) * ((n_points - 1) / n_points)
    return Fitted(
        coefficients,
        problem.intercepts(coefficients),
        errors,
        variance.clamp_(min=0).sqrt_(),
    )


def solver(weighed: Tensor, alpha: float) -> Tensor:
    """Return ``X (X^T X + alpha)^-1``, shaped as X, ``(..., points, features)``.

    It is ``(X X^T + alpha)^-1 X`` as well: the smaller of both systems is solved.
    """
    n_points, n_features = weighed.shape[-2:]
    other = weighed.mT
    is_wide = n_features > n_points
    gram = weighed @ other if is_wide else other @ weighed
    gram.diagonal(dim1=-2, dim2=-1).add_(alpha)
    # what cannot be solved becomes NaN, for its own row alone
    factor, failed = torch.linalg.cholesky_ex(gram)
    factor = factor.masked_fill((failed != 0)[..., None, None], torch.nan)
    if is_wide:
        return torch.cholesky_solve(weighed, factor)
    return torch.cholesky_solve(other, factor).mT


def _combined(numbers: Tensor, matrices: Tensor) -> Tensor:
    """Return the rows' ``numbers @ matrix``, of one matrix for all or one for each."""
    if len(matrices) == 1:
        return numbers @ matrices[0]
    return (numbers[:, None] @ matrices)[:, 0]
