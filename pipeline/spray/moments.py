"""Mean and covariance of vectors that come in chunks, and the directions of largest variance.

Chunks are merged pairwise as in Chan, Golub & LeVeque 1979: exactly where the covariance fits, and
else as a truncated singular value decomposition, whose merge keeps the difference of the means as
a further row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Chunks = Callable[[], Iterable["NDArray[Any]"]]
"""Returns the chunks ``(rows, values)`` from the start, as often as it is called."""

EXACT = 4096
"""Values up to which the whole covariance is accumulated: 128 MiB in float64."""

SPARE = 16
"""Directions beyond the wanted ones that truncated merges keep: the last kept ones are wrong (the
32nd of 32 by 80 %), the first ones are not (1e-4)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and scatter matrix of vectors; exact."""

    n: int
    mean: NDArray[Any]
    scatter: NDArray[Any]
    """Sum of the outer products of deviations from the mean, ``(values, values)``."""

    @classmethod
    def of(cls, rows: NDArray[Any], rank: int) -> Moments:
        """Return those of a chunk."""
        mean = rows.mean(axis=0, dtype=np.float64)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merged(self, other: Moments) -> Moments:
        """Return those of both."""
        n = self.n + other.n
        step = other.mean - self.mean
        between = np.outer(step, step * (self.n * other.n / n))
        mean = self.mean + step * (other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + between)

    def directions(self, count: int) -> NDArray[Any]:
        """Return the directions of largest variance, ``(values, count)``, largest first."""
        _, vectors = np.linalg.eigh(self.scatter)
        return np.asarray(vectors[:, ::-1][:, :count])


@dataclass(frozen=True, eq=False)
class Factors:
    """Number, mean and a low-rank factor of the scatter matrix of vectors."""

    n: int
    mean: NDArray[Any]
    rows: NDArray[Any]
    """Singular values times right singular vectors, ``(rank, values)``."""
    rank: int

    @classmethod
    def of(cls, rows: NDArray[Any], rank: int) -> Factors:
        """Return those of a chunk."""
        mean = rows.mean(axis=0, dtype=np.float64)
        return cls(len(rows), mean, _truncated(rows - mean, rank), rank)

    def merged(self, other: Factors) -> Factors:
        """Return those of both."""
        n = self.n + other.n
        step = other.mean - self.mean
        weight = np.sqrt(self.n * other.n / n)
        stacked = np.concatenate([self.rows, other.rows, weight * step[None]])
        mean = self.mean + step * (other.n / n)
        return Factors(n, mean, _truncated(stacked, self.rank), self.rank)

    def directions(self, count: int) -> NDArray[Any]:
        """Return the directions of largest variance, ``(values, count)``, largest first."""
        found = self.rows[:count]
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(np.divide(found, norms, where=norms > 0, out=np.zeros_like(found)).T)


def projected(chunks: Chunks, n_components: int | None) -> NDArray[np.float32]:
    """Return vectors in the directions of their largest variance, float32 ``(rows, directions)``.

    Parameters
    ----------
    chunks
        Read twice; no more than one is in memory.
    n_components
        How many directions; None, or more than there are, for the vectors themselves.
    """
    if n_components is None:
        return np.concatenate([np.asarray(rows, np.float32) for rows in chunks()])
    total: Any = None
    for rows in chunks():
        if not len(rows):
            continue
        if n_components >= rows.shape[1]:
            return projected(chunks, None)
        kind = Moments if rows.shape[1] <= EXACT else Factors
        found = kind.of(rows, n_components + SPARE)
        total = found if total is None else total.merged(found)
    directions = _signed(total.directions(n_components))
    parts = [(rows - total.mean) @ directions for rows in chunks() if len(rows)]
    return np.concatenate(parts).astype(np.float32)


def _truncated(rows: NDArray[Any], rank: int) -> NDArray[Any]:
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(values[:rank, None] * vectors[:rank])


def _signed(directions: NDArray[Any]) -> NDArray[Any]:
    """Return directions whose largest entry is positive: decompositions leave the sign open."""
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    return directions * np.where(signs == 0, 1.0, signs)
