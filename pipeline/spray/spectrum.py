"""The graph of nearest maps, and the smallest eigenvalues of its Laplacian with their vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.spray.parameters import missing_library

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE = 500
"""Rows up to which a part of the graph is decomposed as a dense matrix, which is exact and, this
small, as fast."""


def graph(vectors: NDArray[Any], n_neighbors: int) -> Any:
    """Return the symmetric graph of nearest neighbours, sparse float64 ``(rows, rows)``.

    Two rows are linked by 1 where each is among the nearest of the other, and by 1/2 where one
    is. No row is its own neighbour, and that it is the row itself is told by its index: of rows
    that are the same, each has the others as neighbours.

    Parameters
    ----------
    vectors
        ``(rows, values)``; distances are Euclidean.
    n_neighbors
        Of each row; fewer than there are rows.
    """
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise missing_library() from error
    nearest = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(vectors)
    directed = nearest.kneighbors_graph(mode="connectivity").astype(np.float64)
    return (0.5 * (directed + directed.T)).tocsr()


def eigenpairs(links: Any, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest eigenvalues of the normalised Laplacian, and their vectors.

    The Laplacian is I - D^(-1/2) A D^(-1/2) (von Luxburg 2007, arXiv:0711.0189), with eigenvalues
    in [0, 2]; as many are zero as the graph has parts. Each part is decomposed by itself: zeros
    are then exact, and vectors of one part are zero in the others, where an iteration over the
    whole graph may miss a repeated eigenvalue.

    Parameters
    ----------
    links
        Symmetric, sparse, ``(rows, rows)``; every row has a link.
    count
        How many, fewer than there are rows.

    Returns
    -------
    values
        ``(count,)``, ascending.
    vectors
        ``(rows, count)``, of length 1; the entry of largest size is positive.
    """
    from scipy.sparse import diags
    from scipy.sparse.csgraph import connected_components

    scale = 1.0 / np.sqrt(np.asarray(links.sum(axis=1)).ravel())
    similar = (diags(scale) @ links @ diags(scale)).tocsr()
    n_parts, part = connected_components(links, directed=False)
    found_values, found_vectors, rows_of = [], [], []
    for number in range(n_parts):
        rows = np.flatnonzero(part == number)
        values, vectors = _largest(similar[rows][:, rows], min(count, len(rows)))
        found_values.append(1.0 - values)
        found_vectors.append(vectors)
        rows_of.append(rows)
    return _united(found_values, found_vectors, rows_of, count, len(part))


def _largest(similar: Any, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the largest eigenvalues of a symmetric matrix, descending, and their vectors."""
    from scipy.sparse.linalg import eigsh

    n = similar.shape[0]
    if n <= max(DENSE, 2 * count):
        values, vectors = np.linalg.eigh(similar.toarray())
    else:
        # a fixed start, so that the same graph gives the same bits
        start = np.random.default_rng(0).standard_normal(n)
        values, vectors = eigsh(similar, k=count, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")[:count]
    return values[order], vectors[:, order]


def _united(
    values: list[NDArray[Any]],
    vectors: list[NDArray[Any]],
    rows_of: list[NDArray[Any]],
    count: int,
    n_rows: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest eigenvalues of all parts; of equal ones, of larger parts first."""
    # rounding leaves the zero of a part a little beside it
    every = [np.where(np.abs(part) < 1e-10, 0.0, part) for part in values]
    of = [
        (value, -len(rows_of[number]), number, column)
        for number, part in enumerate(every)
        for column, value in enumerate(part)
    ]
    chosen = sorted(of)[:count]
    whole = np.zeros((n_rows, len(chosen)))
    for place, (_, _, number, column) in enumerate(chosen):
        vector = vectors[number][:, column]
        sign = np.sign(vector[np.abs(vector).argmax()])
        whole[rows_of[number], place] = sign * vector
    return np.array([value for value, *_ in chosen]), whole
