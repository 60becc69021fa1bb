"""Factors ``F`` of sums of outer products, ``F^T F = sum x x^T``: combined and truncated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def truncate(factor: Tensor, rank: int) -> Tensor:
    """Return the best factor of at most `rank` rows, strongest first.

    With ``F F^T = U diag(w) U^T`` the rows are ``U^T F``, so that all rows together give the same
    ``F^T F`` to rounding whatever the spectrum; with more rows than columns the eigenvectors of
    ``F^T F`` are taken instead. Rows are orthogonal to rounding relative to the strongest one.

    Parameters
    ----------
    factor
        ``(rows, ...)`` in float64.
    rank
        Rows to keep; there are fewer where the factor has fewer rows or columns.

    Returns
    -------
    Tensor
        ``(min(rank, rows, columns), ...)``. The largest entry of a row by magnitude is positive,
        so that equal inputs give equal signs whatever the eigenvalue routine does.
    """
    matrix = factor.flatten(1)
    n_rows, n_columns = matrix.shape
    if n_rows <= n_columns:
        _, vectors = torch.linalg.eigh(matrix @ matrix.T)  # ascending eigenvalues
        strongest = vectors.flip(1)[:, :rank].T @ matrix
    else:
        values, vectors = torch.linalg.eigh(matrix.T @ matrix)
        scaled = vectors * values.clamp(min=0).sqrt()
        strongest = scaled.flip(1)[:, :rank].T
    return _descending(strongest).reshape(-1, *factor.shape[1:])


def combine(factors: Iterable[Tensor], limit: int) -> Tensor:
    """Return a factor of the sum of what several factors stand for.

    Rows are stacked, which is exact, and truncated to `limit` when there are more than twice as
    many: so rarely that the decompositions do not count, and so late that chains of merges lose
    no more than one truncation of everything would.
    """
    stacked = torch.cat(list(factors))
    return truncate(stacked, limit) if len(stacked) > 2 * limit else stacked


def pad_rows(factor: Tensor, n_rows: int) -> Tensor:
    """Return the factor with rows of zeros, which add nothing, up to `n_rows`."""
    missing = n_rows - len(factor)
    return torch.cat([factor, factor.new_zeros(missing, *factor.shape[1:])])


def energies(factor: Tensor) -> Tensor:
    """Return the squared length of each row: eigenvalues of ``F^T F`` if rows are orthogonal."""
    return factor.flatten(1).square().sum(1)


def _descending(matrix: Tensor) -> Tensor:
    order = energies(matrix).argsort(descending=True, stable=True)
    ordered = matrix[order]
    largest = ordered.gather(1, ordered.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -ordered, ordered)
