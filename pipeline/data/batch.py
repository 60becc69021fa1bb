"""Reading a batch: what cannot be used is set aside with a reason, and nothing is raised."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.source import Record, Source

logger = logging.getLogger(__name__)


def read_batch(
    source: Source, records: Sequence[Record], expected_shape: tuple[int, ...]
) -> tuple[Tensor, list[int], dict[int, str]]:
    """Read samples.

    Parameters
    ----------
    source
        Where they are.
    records
        Which ones.
    expected_shape
        Shape of one sample.

    Returns
    -------
    inputs
        The good samples, float32, ``(good, ...)``.
    positions
        Their positions in `records`.
    failures
        Position to reason, for the others: unreadable, of another shape, NaN or infinite.
    """
    found = _load_all(source, records)
    positions: list[int] = []
    good: list[Tensor] = []
    failures: dict[int, str] = {}
    for position, sample in enumerate(found):
        if isinstance(sample, Tensor) and sample.shape == torch.Size(expected_shape):
            positions.append(position)
            good.append(sample)
            continue
        reason = sample if isinstance(sample, str) else _misfit(sample, tuple(expected_shape))
        failures[position] = reason
    inputs = torch.stack(good) if good else torch.empty(0, *expected_shape)
    return inputs, positions, failures


def read_one(source: Source, record: Record) -> Tensor | str:
    """Return a sample, float32, or why it cannot be used, whatever its shape."""
    try:
        sample = source.load(record)
    except Exception as error:
        # sources are anybody's code over anybody's files: whatever a sample raises is its status
        return f"unreadable: {type(error).__name__}: {error}"
    if not isinstance(sample, Tensor):
        return f"got {type(sample).__name__}, expected a tensor"
    n_bad = int((~sample.isfinite()).sum())
    if n_bad:
        return f"{n_bad} of {sample.numel()} values are NaN or infinite"
    return sample.to(torch.float32)


def read_masks(source: Source, records: Sequence[Record], size: tuple[int, int]) -> Tensor:
    """Return the masks of samples, bool ``(batch, height, width)``.

    A mask that is missing, unreadable or of another size is empty; metrics of masks have no
    score for an empty one.
    """
    masks = torch.zeros(len(records), *size, dtype=torch.bool)
    for position, record in enumerate(records):
        if record.mask is None:
            continue
        try:
            mask = source.load_mask(record)
        except Exception as error:
            # as with inputs: one bad file must not end the run
            logger.warning("%s: unreadable mask: %s", record.sample_id, error)
            continue
        if mask is not None and tuple(mask.shape) == size:
            masks[position] = mask
        else:
            logger.warning("%s: mask does not fit %s", record.sample_id, size)
    return masks


def _load_all(source: Source, records: Sequence[Record]) -> list[Tensor | str]:
    n_threads = min(source.decode_threads, len(records))
    if n_threads <= 1:
        return [read_one(source, record) for record in records]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(read_one, [source] * len(records), records))


def _misfit(sample: Tensor, expected_shape: tuple[int, ...]) -> str:
    return f"got shape {tuple(sample.shape)}, expected {expected_shape}"
