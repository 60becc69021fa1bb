"""Moments of a continuous, piecewise quadratic function of a Gaussian, in closed form.

With x = m + sigma t, a piece of f is a polynomial of t, and its share of E[f], E[f^2], E[f'] ... is
a sum of the truncated moments M_k = E[t^k; low < t < high] of a standard normal::

    M_0 = Phi(high) - Phi(low)          M_1 = phi(low) - phi(high)
    M_k = (k - 1) M_{k-2} + low^{k-1} phi(low) - high^{k-1} phi(high)

Everything is taken relative to f(m): what is far from a bound cancels exactly, so that a large mean
with a small variance loses no digits, and no variance at all gives f(m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from explainers.rules.moments.known import Known, least_deviation
from explainers.rules.moments.normal import below, density, far

if TYPE_CHECKING:
    from torch import Tensor

    Polynomial = tuple[float, float, float]
    Moment = Tensor | float


@dataclass(frozen=True)
class Pieces:
    """A continuous function that is a polynomial between bounds."""

    bounds: tuple[float, ...]
    """Finite, ascending."""
    polynomials: tuple[Polynomial, ...]
    """Of each piece, one more than bounds: constant, linear, quadratic coefficient."""

    def jump(self, position: int) -> float:
        """Return by how much the slope rises at a bound."""
        at = self.bounds[position]
        left, right = self.polynomials[position : position + 2]
        return right[1] - left[1] + 2 * at * (right[2] - left[2])

    def at_bound(self, position: int) -> float:
        """Return the function's value at a bound."""
        at = self.bounds[position]
        constant, linear, quadratic = self.polynomials[position]
        return constant + at * (linear + at * quadratic)


def clipped(low: float, high: float, slope: float = 1.0, shift: float = 0.0) -> Pieces:
    """Return ``min(max(slope x + shift, low), high)`` for a positive slope."""
    limits = [limit for limit in (low, high) if math.isfinite(limit)]
    inner: Polynomial = (shift, slope, 0.0)
    below = [(low, 0.0, 0.0)] if math.isfinite(low) else []
    above = [(high, 0.0, 0.0)] if math.isfinite(high) else []
    bounds = tuple((limit - shift) / slope for limit in limits)
    return Pieces(bounds, (*below, inner, *above))


class _Bound:
    """A bound in standard deviations from the mean, with density and tails there."""

    def __init__(self, at: float, mean: Tensor, deviation: Tensor) -> None:
        distance = (at - mean) / deviation
        # 0 / 0 where a certain value is at the bound
        limit = far(distance.dtype)
        self.at = torch.nan_to_num(distance, 0.0).clamp_(-limit, limit)
        self.density = density(self.at)

    @cached_property
    def below(self) -> Tensor:
        """Return Phi(at)."""
        return below(self.at)

    @cached_property
    def above(self) -> Tensor:
        """Return 1 - Phi(at)."""
        return below(-self.at)

    def boundary(self, degree: int) -> Tensor:
        """Return at^degree phi(at)."""
        return self.density * self.at.pow(degree) if degree else self.density


class _Piece:
    """One polynomial of t, and the truncated moments between its bounds.

    `values` are the coefficients of f - f(m) in 1, t, t^2, and `slopes` those of f' in 1, t; None
    stands for zero.
    """

    def __init__(self, low: _Bound | None, high: _Bound | None) -> None:
        self._low, self._high = low, high
        self._moments: dict[int, Moment] = {}
        self.values: tuple[Moment, Moment | None, Moment | None] = (0.0, None, None)
        self.slopes: tuple[Moment | None, Moment | None] = (None, None)
        self.curvature = 0.0

    def moment(self, degree: int) -> Moment:
        """Return M_degree."""
        if degree not in self._moments:
            self._moments[degree] = self._mass() if degree == 0 else self._higher(degree)
        return self._moments[degree]

    def _mass(self) -> Moment:
        if self._low is None and self._high is None:
            return 1.0
        if self._low is None:
            return self._high.below  # type: ignore[union-attr]
        if self._high is None:
            return self._low.above
        upper = self._low.above - self._high.above
        # of two nearly equal numbers, take the small ones
        return torch.where(self._low.at > 0, upper, self._high.below - self._low.below)

    def _higher(self, degree: int) -> Moment:
        found: Moment = (degree - 1) * self.moment(degree - 2) if degree > 1 else 0.0
        if self._low is not None:
            found = found + self._low.boundary(degree - 1)
        if self._high is not None:
            found = found - self._high.boundary(degree - 1)
        return found

    def expectation(self, *factors: tuple[Moment | None, ...]) -> Moment:
        """Return E of a product of polynomials in t over the piece."""
        product: dict[int, Moment] = {0: 1.0}
        for factor in factors:
            terms: dict[int, Moment] = {}
            for degree, coefficient in product.items():
                for further, other in enumerate(factor):
                    if other is not None:
                        term = coefficient * other
                        total = degree + further
                        terms[total] = terms[total] + term if total in terms else term
            product = terms
        return sum((term * self.moment(degree) for degree, term in product.items()), 0.0)


class Truncated:
    """Expectations of a piecewise quadratic function f of Gaussian values.

    Parameters
    ----------
    pieces
        The function.
    mean, variance
        Of the values, of one shape.
    plain
        f(mean), of which the result for no variance is made; of the type of the result, where mean
        and variance are wider.
    """

    def __init__(self, pieces: Pieces, mean: Tensor, variance: Tensor, plain: Tensor) -> None:
        self.plain = plain
        self._of = pieces
        deviation = variance.sqrt()
        self._deviation = deviation
        self._bounds = [_Bound(at, mean, deviation) for at in pieces.bounds]
        ends = [None, *self._bounds, None]
        self._pieces = [
            self._piece(position, mean, ends[position], ends[position + 1])
            for position in range(len(pieces.polynomials))
        ]

    def _piece(
        self, position: int, mean: Tensor, low: _Bound | None, high: _Bound | None
    ) -> _Piece:
        constant, linear, quadratic = self._of.polynomials[position]
        piece, deviation = _Piece(low, high), self._deviation
        value = constant + mean * (linear + mean * quadratic) if linear or quadratic else constant
        relative = value - self.plain
        is_own = torch.ones_like(mean, dtype=torch.bool)
        if low is not None:
            is_own &= mean >= self._of.bounds[position - 1]
        if high is not None:
            is_own &= mean < self._of.bounds[position]
        relative = relative.masked_fill_(is_own, 0.0)
        slope: Moment | None = linear or None
        if quadratic:
            slope = linear + 2 * quadratic * mean
            piece.curvature = 2 * quadratic
            piece.values = (relative, slope * deviation, quadratic * deviation.square())
            piece.slopes = (slope, 2 * quadratic * deviation)
        else:
            piece.values = (relative, None if slope is None else slope * deviation, None)
            piece.slopes = (slope, None)
        return piece

    @cached_property
    def shift(self) -> Tensor:
        """E[f] - f(m)."""
        return self._sum(*(piece.expectation(piece.values) for piece in self._pieces))

    @cached_property
    def variance(self) -> Tensor:
        """Var[f]."""
        square = self._sum(*(one.expectation(one.values, one.values) for one in self._pieces))
        return (square - self.shift.square()).clamp_(min=0.0)

    @cached_property
    def gain(self) -> Tensor:
        """E[f']."""
        return self._sum(*(piece.expectation(piece.slopes) for piece in self._pieces))

    @cached_property
    def curvature(self) -> Tensor:
        """E[f''], with what the bounds give."""
        bent = [one.curvature * one.moment(0) for one in self._pieces if one.curvature]
        return self._sum(*bent, *(jump for _, jump in self._jumps))

    @cached_property
    def twist(self) -> Tensor:
        """E[f''']."""
        deviation = self._positive
        bent = [one.curvature * one.moment(1) / deviation for one in self._pieces if one.curvature]
        kinks = [jump * self._bounds[position].at / deviation for position, jump in self._jumps]
        return self._sum(*bent, *kinks)

    @cached_property
    def slope_with_value(self) -> Tensor:
        """Cov[f, f']."""
        both = self._sum(*(one.expectation(one.values, one.slopes) for one in self._pieces))
        return both - self.shift * self.gain

    @cached_property
    def growth(self) -> Tensor:
        """E[f'^2] + Cov[f, f'']."""
        slopes = [piece.expectation(piece.slopes, piece.slopes) for piece in self._pieces]
        bent = [
            one.curvature * (one.expectation(one.values) - self.shift * one.moment(0))
            for one in self._pieces
            if one.curvature
        ]
        kinks = [
            jump * (self._of.at_bound(position) - self.plain - self.shift)
            for position, jump in self._jumps
        ]
        return self._sum(*slopes, *bent, *kinks)

    @cached_property
    def _positive(self) -> Tensor:
        least = least_deviation(self.plain.dtype)
        return torch.where(self._deviation > least, self._deviation, 1.0)

    @cached_property
    def _jumps(self) -> list[tuple[int, Tensor]]:
        rises = [(position, self._of.jump(position)) for position in range(len(self._bounds))]
        return [
            (position, rise * self._bounds[position].density / self._positive)
            for position, rise in rises
            if rise
        ]

    def _sum(self, *terms: Moment) -> Tensor:
        total = torch.zeros_like(self.plain)
        for term in terms:
            total = total + term
        return total

    def known(self, *, is_factor: bool, is_wanted: bool) -> Known:
        """Return E[f] and, of a form, Var[f] or E[f'], with their derivatives."""
        mean = self.plain + self.shift
        values = (mean, self.gain if is_factor else self.variance)
        if not is_wanted:
            return Known(values, values, values)
        half = self.curvature / 2
        if is_factor:
            return Known(values, (self.gain, self.curvature), (half, self.twist / 2))
        return Known(values, (self.gain, 2 * self.slope_with_value), (half, self.growth))
