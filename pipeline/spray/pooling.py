"""Maps as vectors that can be compared: channels summed, cells summed, of L1 norm 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHANNEL = "channel"


def grid_of(sizes: Sequence[int], grid: int | None) -> tuple[int, ...]:
    """Return the shape of maps of these sizes, channels aside, once they are pooled."""
    cell = _cell(sizes, grid)
    return tuple(-(-size // cell) for size in sizes)


def pooled(
    maps: NDArray[Any], n_axes: int, grid: int | None, sign: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return maps as vectors of L1 norm 1, and which of them are defined.

    Cells are cut from the top left; those at the end may be smaller.

    Parameters
    ----------
    maps
        ``(maps, ..., *sizes)``: what is before the last `n_axes` axes is summed, as channels are.
    n_axes
        Axes that hold positions: 2 for pictures, 1 for rows of values.
    grid
        See `Spray.grid`.
    sign
        See `Spray.sign`; after channels are summed.

    Returns
    -------
    vectors
        ``(maps, cells)``; rows of maps that are not defined are zero.
    is_defined
        ``(maps,)``; a map that is not finite is not, nor one without any relevance.
    """
    sizes = maps.shape[maps.ndim - n_axes :]
    values = np.asarray(maps, np.float64)
    values = values.reshape(len(maps), int(np.prod(maps.shape[1 : maps.ndim - n_axes])), *sizes)
    values = values.sum(axis=1)
    is_finite = np.isfinite(values).reshape(len(maps), -1).all(axis=1)
    values = np.where(is_finite.reshape(-1, *(1,) * n_axes), values, 0.0)
    if sign == "absolute":
        values = np.abs(values)
    elif sign == "positive":
        values = np.maximum(values, 0.0)
    cell = _cell(sizes, grid)
    for axis, size in enumerate(sizes, start=1):
        values = np.add.reduceat(values, np.arange(0, size, cell), axis=axis)
    vectors = values.reshape(len(maps), -1)
    norms = np.abs(vectors).sum(axis=1, keepdims=True)
    is_defined = norms[:, 0] > 0
    return np.divide(vectors, norms, where=norms > 0, out=vectors).astype(np.float32), is_defined


def _cell(sizes: Sequence[int], grid: int | None) -> int:
    return 1 if grid is None else -(-max(sizes) // grid)
