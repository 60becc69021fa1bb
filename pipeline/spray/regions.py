"""A cluster's hot region in the inputs, and what is put there when it is erased."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STEPS = tuple(
    (row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)
)
"""To the eight positions around one."""

KEPT = 64
"""Regions whose imputation is kept: each is a few megabytes at 224 x 224."""


def positions(
    hot: NDArray[np.bool_], grid: int | None, map_sizes: Sequence[int], sizes: Sequence[int]
) -> NDArray[np.bool_]:
    """Return the positions of the input that lie in hot cells, bool ``sizes``.

    Parameters
    ----------
    hot
        Cells, of the pooled map.
    grid
        See `Spray.grid`.
    map_sizes
        Of maps before pooling; those of a layer are coarser than the input.
    sizes
        Of the input.
    """
    cell = 1 if grid is None else -(-max(map_sizes) // grid)
    for axis, (of_map, of_input) in enumerate(zip(map_sizes, sizes, strict=True)):
        place = np.arange(of_input) * of_map // of_input // cell
        hot = hot.take(place, axis=axis)
    return hot


def imputation(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the linear imputation of masked positions from the others.

    Each masked pixel is the weighted mean of the eight around it, 1/6 for direct and 1/12 for
    diagonal neighbours, fewer at the border: a linear system in the masked ones (Rong et al. 2022,
    "A consistent and efficient evaluation strategy for attribution methods", arXiv:2202.00449).
    The noise that is added there is left out, so that nothing is drawn.

    Parameters
    ----------
    mask
        ``(height, width)``.

    Returns
    -------
    weights
        ``(masked, others)``, both in row-major order; rows sum to 1. Zero if all is masked.
    """
    return _imputation(mask.tobytes(), mask.shape)


@functools.lru_cache(maxsize=KEPT)
def _imputation(content: bytes, shape: tuple[int, int]) -> NDArray[np.float32]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    mask = np.frombuffer(content, np.bool_).reshape(shape)
    rows, columns, weights = _links(mask)
    inside, outside = np.flatnonzero(mask), np.flatnonzero(~mask)
    filled = np.zeros((len(inside), len(outside)), np.float32)
    if not len(inside) or not len(outside):
        return filled
    links = coo_matrix((weights, (rows, columns)), shape=(mask.size, mask.size)).tocsr()[inside]
    degrees = np.asarray(links.sum(axis=1)).ravel()
    system = coo_matrix((degrees, (range(len(inside)), range(len(inside))))) - links[:, inside]
    # only the rim of the region enters; all other columns are zero
    known = links[:, outside].tocsc()
    rim = np.flatnonzero(np.diff(known.indptr))
    filled[:, rim] = splu(system.tocsc()).solve(known[:, rim].toarray())
    return filled


def _links(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return from where, to where and how strongly each masked pixel is linked."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    found = []
    for down, right in STEPS:
        to_row, to_column = rows + down, columns + right
        is_in = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
        weight = 1 / 12 if down and right else 1 / 6
        found.append(
            (
                (rows * width + columns)[is_in],
                (to_row * width + to_column)[is_in],
                np.full(int(is_in.sum()), weight),
            )
        )
    starts, ends, weights = (np.concatenate(each) for each in zip(*found, strict=True))
    return starts, ends, weights
