"""A weighted linear regression for each of many samples, on features that they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

ELEMENTS = 2**22
"""Numbers in the largest intermediate result, 32 MB; rows beyond are fitted in turn."""


@dataclass(frozen=True, eq=False)
class Regression:
    """Values to be fitted by ``intercept + features @ coefficients``; all in float64."""

    features: Tensor
    """``(points, features)``, the same for all rows."""
    values: Tensor
    """``(rows, points)``."""
    weights: Tensor
    """Of the squared errors, ``(1 | rows, points)``: one row where all have the same."""
    fit_intercept: bool = True

    @cached_property
    def shares(self) -> Tensor:
        """Weights that sum to one, ``(1 | rows, points)``."""
        return self.weights / self.weights.sum(1, keepdim=True)

    @cached_property
    def feature_means(self) -> Tensor:
        """Weighted, ``(1 | rows, features)``; zero where no intercept is fitted."""
        if not self.fit_intercept:
            return torch.zeros_like(self.features[:1])
        return self.shares @ self.features

    @cached_property
    def value_means(self) -> Tensor:
        """Weighted, ``(rows, 1)``; zero where no intercept is fitted."""
        if not self.fit_intercept:
            return torch.zeros_like(self.values[:, :1])
        return (self.shares * self.values).sum(1, keepdim=True)

    @cached_property
    def centred_values(self) -> Tensor:
        """Values minus their mean, ``(rows, points)``."""
        return self.values - self.value_means

    @property
    def own_share(self) -> Tensor:
        """What a point's value adds to the intercept at that point, ``(1 | rows, points)``."""
        return self.shares if self.fit_intercept else torch.zeros_like(self.shares)

    def predicted(self, coefficients: Tensor) -> Tensor:
        """Return what coefficients ``(rows, features)`` say of centred features, by point."""
        return coefficients @ self.features.T - (self.feature_means * coefficients).sum(1)[:, None]

    def correlated(self, centred: Tensor) -> Tensor:
        """Return weighted mean products of features with centred ``(rows, points)``, by feature."""
        return (self.shares * centred) @ self.features

    def intercepts(self, coefficients: Tensor) -> Tensor:
        """Return the intercepts that go with coefficients, ``(rows,)``."""
        return self.value_means[:, 0] - (self.feature_means * coefficients).sum(1)

    def pieces(self, n_elements: int) -> Iterator[Regression]:
        """Yield the regressions of as many rows at a time as fit with so many numbers each."""
        at_once = max(1, ELEMENTS // max(1, n_elements))
        n_rows = len(self.values)
        if n_rows <= at_once:
            yield self
            return
        for first in range(0, n_rows, at_once):
            yield self.of(slice(first, first + at_once))

    def of(self, rows: Tensor | slice) -> Regression:
        """Return the regressions of some rows."""
        weights = self.weights if len(self.weights) == 1 else self.weights[rows]
        return Regression(self.features, self.values[rows], weights, self.fit_intercept)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A linear model of each row."""

    coefficients: Tensor
    """``(rows, features)``."""
    intercepts: Tensor
    """``(rows,)``."""
    errors: Tensor
    """What the model is off at each point if that point is left out of its fit,
    ``(rows, points)``."""
    standard_error: Tensor | None = None
    """Of the coefficients, ``(rows, features)``."""

    @classmethod
    def joined(cls, parts: list[Fitted]) -> Fitted:
        """Return the models of the rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        errors = [part.standard_error for part in parts if part.standard_error is not None]
        return cls(
            torch.cat([part.coefficients for part in parts]),
            torch.cat([part.intercepts for part in parts]),
            torch.cat([part.errors for part in parts]),
            torch.cat(errors) if errors else None,
        )

    def residual(self, shares: Tensor) -> Tensor:
        """Return the root of the weighted mean squared error at points left out, ``(rows,)``."""
        return (shares * self.errors.square()).sum(1).sqrt()
