"""A prior over odd functions of sets, and what it makes of pairs of sets that were seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from explainers.shapley.neighbours import groups
from explainers.shapley.staged import Found, one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.shapley.design import Design
    from explainers.shapley.neighbours import Places

_AT_ONCE = 2**22
"""Products of signs that are held at once."""

_HELD_OUT = 512
"""Pairs that are held out, one at a time: enough to know their mean square to six percent."""


@dataclass(frozen=True)
class Prior:
    """Independent coefficients of odd monomials, and a rest of its own for every pair of sets.

    With ``t = <z, z'>``, the covariance of ``d(z)`` and ``d(z')`` is ``sum_k s_k e_k(z z')``, the
    elementary symmetric polynomial being one of t alone (Krawtchouk's), and `lam` more where they
    are the same pair, unless that is all features. Where features have places, monomials of groups
    of neighbours vary more: see `neighbours`.
    """

    n_features: int
    g3: float
    g5: float
    lam: float
    near: float = 0.0
    """Variance of all monomials of three neighbours together; a tenth for those of five."""
    where: Places | None = None

    @property
    def variances(self) -> dict[int, float]:
        """Prior variance of each coefficient, by its order; orders beyond n do not exist."""
        n = self.n_features
        of_order = {1: 100.0, 3: self.g3, 5: self.g5}
        return {k: g / math.comb(n, k) for k, g in of_order.items() if k <= n}

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield groups of neighbours, ``(groups, size)``, and what their variances gain."""
        for size, share in ((3, 1.0), (5, 0.1)):
            if self.where is not None and self.near and size <= self.n_features:
                members, weights = groups(self.where, size)
                yield members, self.near * share * weights

    def joint(self, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Return covariances of smooth parts with each other, and with Shapley values.

        Parameters
        ----------
        signs
            Sets, float64 ``(sets, features)``.

        Returns
        -------
        tuple of Tensor
            ``(sets, sets)`` and ``(features, sets)``.
        """
        covariance, with_values = self._covariance(signs), self._with_values(signs)
        for members, variances in self.groups():
            at_once = max(1, _AT_ONCE // len(signs))
            pieces = torch.split(members, at_once), torch.split(variances, at_once)
            for some, gains in zip(*pieces, strict=True):
                products = signs[:, some[:, 0]]
                for other in some.T[1:]:
                    products *= signs[:, other]
                covariance.addmm_(products * gains, products.T)
                shares = (2 / some.shape[1] * gains).expand(some.shape[1], -1)
                shared = signs.new_zeros(self.n_features, len(some)).scatter_(0, some.T, shares)
                with_values.addmm_(shared, products.T)
        return covariance, with_values

    def _covariance(self, signs: Tensor) -> Tensor:
        n = self.n_features
        sums = torch.arange(-n, n + 1, dtype=torch.float64)
        symmetric = _symmetric(sums, n, max(self.variances))
        table = sum((s * symmetric[k] for k, s in self.variances.items()), torch.zeros_like(sums))
        return table[(signs @ signs.T + n).long()]

    def _with_values(self, signs: Tensor) -> Tensor:
        # sum_k 2 s_k / k z_i e_{k-1}(z without i)
        others = signs.sum(1, keepdim=True) - signs
        symmetric = _symmetric(others, self.n_features - 1, max(self.variances) - 1)
        terms = (2 * s / k * symmetric[k - 1] for k, s in self.variances.items())
        return (signs * sum(terms, torch.zeros_like(others))).T

    def of_values(self) -> Tensor:
        """Return the variance of each Shapley value's smooth part, ``(features,)``."""
        n = self.n_features
        everywhere = math.fsum(
            (2 / k) ** 2 * math.comb(n - 1, k - 1) * s for k, s in self.variances.items()
        )
        found = torch.full((n,), everywhere, dtype=torch.float64)
        for members, variances in self.groups():
            for member in members.T:
                found.index_add_(0, member, variances, alpha=(2 / members.shape[1]) ** 2)
        return found

    @property
    def of_rests(self) -> float:
        """Variance of what the rests of all pairs are worth to a feature."""
        n = self.n_features
        weights = _weights(n)[1:n]
        return self.lam * math.fsum(
            math.comb(n - 1, size - 1) * inside**2 / 2 + math.comb(n - 1, size) * outside**2 / 2
            for size, (inside, outside) in enumerate(weights.tolist(), 1)
        )


@dataclass(frozen=True, eq=False)
class Posterior:
    """What pairs of sets say about Shapley values, the same for all rows."""

    matrix: Tensor
    """From what was observed, all features last, to values, ``(features, pairs + 1)``."""
    held_out: Tensor
    """To errors of pairs that are held out, ``(some pairs, pairs + 1)``."""
    certainty: Tensor
    """From squares of these errors to variances of values, ``(some pairs, features)``."""

    def found(self, observed: Tensor, rise: Tensor) -> Found:
        """Return posterior means and their errors.

        The residual is the root mean square of what pairs are more than all others say of them
        (Rasmussen and Williams 2006, 5.4.2). By the same the prior, which has no unit, is told how
        large the game is, and thereby how far off values are.
        """
        observed = torch.cat([observed, rise[:, None] / 2], 1)
        squares = (observed @ self.held_out.T).square()
        residual = (squares.sum(1) / max(1, squares.shape[1])).sqrt()
        standard_error = (squares @ self.certainty).sqrt()
        return Found(observed @ self.matrix.T, standard_error, residual)


@lru_cache(maxsize=8)
@one_thread()
def solved(
    design: Design,
    prior: Prior,
    n_first: int,
    device: torch.device,
    *,
    is_random: bool = False,
) -> Posterior:
    """Return the posterior given the first pairs of a design, and all features.

    With K the covariance of pairs, R the diagonal of their rests (0 for all features, where there
    is none, so that efficiency holds), C the covariance of values and pairs, and W what a pair
    alone is worth by Shapley's formula, ``L = (C + W R) (K + R)^-1``.

    Parameters
    ----------
    design
        Paired.
    prior
        For as many features.
    n_first
        Pairs.
    device
        Of the result; it is solved on the CPU, in float64.
    is_random
        Whether a pair would be worth something else if it were seen again. The posterior knows
        nothing of that, so that errors are then the sandwich of what each pair, held out, is off
        by: ``error_i^2 = sum_p (L_ip off_p)^2``, which is a little too large.
    """
    n = prior.n_features
    members = torch.cat([design.members[:n_first], torch.ones(1, n, dtype=torch.bool)])
    signs = 2 * members.double() - 1
    covariance, cross = prior.joint(signs)
    rests = torch.full((n_first + 1,), prior.lam, dtype=torch.float64)
    rests[-1] = 0
    cross += rests * _alone(members)
    covariance.diagonal().add_(rests)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    matrix = cross @ inverse
    some = torch.arange(0, n_first, 1 if is_random else max(1, -(-n_first // _HELD_OUT)))
    precision = inverse.diagonal()[some, None]
    if is_random:
        certainty = matrix.T[some].square()
    elif design.is_complete(n_first):
        certainty = torch.zeros(len(some), n, dtype=torch.float64)
    else:
        variance = prior.of_values() + prior.of_rests - (matrix * cross).sum(1)
        certainty = precision / max(1, len(some)) * variance.clamp(min=0)
    found = matrix, inverse[some] / precision, certainty
    return Posterior(*(tensor.to(device) for tensor in found))


def _symmetric(sums: Tensor, n: int, order: int) -> list[Tensor]:
    """Return elementary symmetric polynomials of n signs with given sums, of order 0 on."""
    found = [torch.ones_like(sums), sums]
    for k in range(2, order + 1):
        found.append((sums * found[-1] - (n - k + 2) * found[-2]) / k)
    return found


@lru_cache(maxsize=16)
def _weights(n: int) -> Tensor:
    """Return what ``d = 1`` for one pair alone is worth to features in and out of its member.

    Float64 ``(features + 1, 2)``, by size: ``2 / (n C(n - 1, s - 1))`` and
    ``-2 / (n C(n - 1, s))``.
    """
    return torch.tensor(
        [
            (
                2 / (n * math.comb(n - 1, size - 1)) if size else 0.0,
                -2 / (n * math.comb(n - 1, size)) if size < n else 0.0,
            )
            for size in range(n + 1)
        ],
        dtype=torch.float64,
    )


def _alone(members: Tensor) -> Tensor:
    """Return what each pair alone is worth to each feature, ``(features, pairs)``."""
    inside, outside = _weights(members.shape[1])[members.sum(1)].unbind(1)
    return torch.where(members, inside[:, None], outside[:, None]).T
