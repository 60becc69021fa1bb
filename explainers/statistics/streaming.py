"""statstream at work on the rows of one shard: exact moments and low-rank factors.

statstream (Maces 2019) pulls blocks from an iterator and returns float64 arrays. What it leaves
to its caller is done here: it returns no count, prints progress bars, divides by zero for a
single row and cannot be trusted with two things in its low-rank part.

- Its merge of two truncated decompositions (Rehurek 2011) assumes orthonormal bases. Where a new
  block adds no new direction, the QR of the vanishing residual returns arbitrary ones, the merged
  basis is oblique from then on, and a later truncation drops what should stay: rank-deficient
  images come out wrong by 2e-4.
- Truncation inside it is ARPACK's with a random start, so that two identical calls differ.

Therefore each call of the low-rank function gets one block at full rank: then it is LAPACK's
dense decomposition, exact and repeatable, and truncation and merging are ours (`factors`).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from torch import Tensor

BLOCK_ROWS = 512
"""Rows of a block of which moments are taken."""
FACTOR_ROWS = 64
"""Rows of a block that is decomposed: the time per row grows with them, 8 ms for 64 digits."""
BLOCK_BYTES = 64 << 20
"""Bytes of a block in float64, which bounds the rows of large images."""


def blocks(rows: Tensor, limit: int = BLOCK_ROWS) -> Iterator[Any]:
    """Yield the rows as float64 arrays of nearly equal length, `limit` at most.

    Where the cuts are depends on the number of rows alone, not on the batches they came in, and
    no block has a single row unless there is only that one or rows are larger than
    ``BLOCK_BYTES / 3``.
    """
    row_bytes = 8 * max(1, math.prod(rows.shape[1:]))
    limit = max(2, min(limit, BLOCK_BYTES // row_bytes))
    for block in rows.tensor_split(-(-len(rows) // limit)):
        yield block.to(torch.float64).numpy()


def stream_moments(rows: Tensor, *, with_scatter: bool) -> dict[str, Tensor]:
    """Return the exact moments of some rows.

    Parameters
    ----------
    rows
        At least one row, ``(rows, ...)``, on the CPU.
    with_scatter
        Whether to return ``scatter``, the sum of outer products of deviations, ``(d, d)``.

    Returns
    -------
    dict
        ``mean``, ``squares`` (the sum of squared deviations), ``minimum`` and ``maximum`` in
        float64, shaped as a row.
    """
    import numpy

    statstream = _statstream()
    # statstream's covariance of a single feature fails on a 0-d accumulator.
    is_matrix = with_scatter and rows[0].numel() > 1
    spread_of = (
        statstream.streaming_mean_and_cov if is_matrix else statstream.streaming_mean_and_var
    )
    with numpy.errstate(divide="ignore", invalid="ignore"), _without_bars(statstream):
        minimum = statstream.streaming_min(blocks(rows))
        maximum = statstream.streaming_max(blocks(rows))
        mean, spread = spread_of(blocks(rows))
    # Of one row statstream divides 0 by 0 for the spread; its deviations are zero.
    degrees = len(rows) - 1
    deviations = torch.from_numpy(spread * degrees if degrees else numpy.zeros_like(spread))
    scatter = deviations.reshape(rows[0].numel(), -1)
    state = {
        "mean": torch.from_numpy(mean),
        "squares": scatter.diagonal().reshape(rows.shape[1:]).clone() if is_matrix else deviations,
        "minimum": torch.from_numpy(minimum),
        "maximum": torch.from_numpy(maximum),
    }
    return {**state, "scatter": scatter} if with_scatter else state


def stream_factors(rows: Tensor, shift: Tensor) -> Iterator[Tensor]:
    """Yield a factor ``F`` of each block of rows, ``(k, ...)`` with ``F^T F = sum (x-s)(x-s)^T``.

    Parameters
    ----------
    rows
        At least one row, ``(rows, ...)``, on the CPU.
    shift
        What is subtracted from every row, float64: the mean over the whole data set.
    """
    statstream = _statstream()
    center = shift.numpy()
    for block in blocks(rows, FACTOR_ROWS):
        padded = block
        if len(block) == 1:
            # statstream divides by the root of rows - 1; a row at the shift adds nothing.
            padded = torch.stack([torch.from_numpy(block[0]), shift]).numpy()
        with _without_bars(statstream):
            factor = statstream.streaming_low_rank_autocorrelation(
                iter([padded]), rank=None, shift=center
            )
        yield torch.from_numpy(factor) * math.sqrt(len(padded) - 1)


def _statstream() -> ModuleType:
    try:
        import statstream
    except ImportError as error:
        raise ImportError(
            "the scan 'moments' needs statstream, which is not installed; "
            "run: pip install 'statstream>=22.1'"
        ) from error
    module: ModuleType = statstream
    return module


def _plain(iterable: Iterable[Any], *_: object, **__: object) -> Iterable[Any]:
    return iterable


@contextmanager
def _without_bars(statstream: ModuleType) -> Iterator[None]:
    """Take the progress bar out of statstream's own two modules while a call lasts.

    TQDM_DISABLE is read when tqdm is imported, which may have happened long before, and setting
    it would silence everybody's bars.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]  # statstream's own dependency

    modules = (statstream.exact, statstream.approximate)
    for module in modules:
        module.tqdm = _plain
    try:
        yield
    finally:
        for module in modules:
            module.tqdm = tqdm
