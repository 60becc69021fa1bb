"""Reading a batch: what cannot be used is set aside with a reason, and nothing is raised."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.data import digests
from pipeline.inputs import ALONE, Part, empty, form_of, in_words, joined, parts_of, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from pipeline.data.source import Record, Source
    from pipeline.inputs import Form, Inputs

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Of an object, as Python writes it: another one in each process."""


def read_batch(
    source: Source,
    records: Sequence[Record],
    expected: Form | tuple[int, ...],
    vocabularies: Mapping[str, int] | None = None,
    decoders: Executor | None = None,
) -> tuple[Inputs, list[int], dict[int, str]]:
    """Read samples.

    Parameters
    ----------
    source
        Where they are.
    records
        Which ones.
    expected
        Form of a sample; or the shape, of one tensor of numbers.
    vocabularies
        How many tokens the model knows, by input.
    decoders
        Threads that read samples; as many as are of use to the source, for this batch alone, if
        None.

    Returns
    -------
    inputs
        The good samples, ``(good, ...)``.
    positions
        Their positions in `records`.
    failures
        Position to reason, for the others: unreadable, of another shape, NaN or infinite, or
        with tokens that the model does not know.
    """
    form = {ALONE: Part(expected, "float32")} if isinstance(expected, tuple) else dict(expected)
    positions: list[int] = []
    good: list[Inputs] = []
    failures: dict[int, str] = {}
    for position, sample in enumerate(_load_all(source, records, decoders)):
        if isinstance(sample, str):
            failures[position] = sample
        elif form_of(sample) != form:
            failures[position] = _misfit(form_of(sample), form)
        elif unknown := _unknown(sample, vocabularies or {}):
            failures[position] = unknown
        else:
            positions.append(position)
            good.append(sample)
    return stacked(good) if good else empty(form), positions, failures


def read_one(source: Source, record: Record) -> Inputs | str:
    """Return a sample, or why it cannot be used, whatever its form.

    Numbers become float32; integers of 32 or 64 bits, which name tokens, become int64; masks
    beside other inputs stay booleans.
    """
    try:
        sample: Any = source.load(record)
    except digests.ChangedError as error:
        return str(error)
    except Exception as error:
        # sources are anybody's code over anybody's files: whatever a sample raises is its status
        return f"unreadable: {type(error).__name__}: {_ADDRESS.sub('', str(error))}"
    held = sample if isinstance(sample, dict) and sample else {ALONE: sample}
    parts: dict[str, Tensor] = {}
    for name, part in held.items():
        if not isinstance(part, Tensor):
            return f"got {type(part).__name__}, expected a tensor"
        n_bad = int((~part.isfinite()).sum())
        if n_bad:
            return f"{n_bad} of {part.numel()} values are NaN or infinite"
        is_mask = part.dtype == torch.bool and len(held) > 1
        parts[str(name)] = part if is_mask else _typed(part)
    return _as_planned(source, record, joined(parts))


def _as_planned(source: Source, record: Record, sample: Inputs) -> Inputs | str:
    if record.digest is None or source.has_content:
        return sample
    try:
        digests.check_values(record, sample)
    except digests.ChangedError as error:
        return str(error)
    return sample


def _typed(part: Tensor) -> Tensor:
    return part.to(torch.int64 if part.dtype in (torch.int32, torch.int64) else torch.float32)


def read_masks(source: Source, records: Sequence[Record], size: tuple[int, int]) -> Tensor:
    """Return the masks of samples, bool ``(batch, height, width)``; one of a row has height 1.

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
        if mask is not None and mask.ndim == 1:
            mask = mask[None]
        if mask is not None and tuple(mask.shape) == size:
            masks[position] = mask
        else:
            logger.warning("%s: mask does not fit %s", record.sample_id, size)
    return masks


def _load_all(
    source: Source, records: Sequence[Record], decoders: Executor | None
) -> list[Inputs | str]:
    n_threads = min(source.decode_threads, len(records))
    if n_threads <= 1:
        # where no two threads may call it, nor is a second one of use
        return [read_one(source, record) for record in records]
    if decoders is not None:
        return list(decoders.map(read_one, [source] * len(records), records))
    with ThreadPoolExecutor(n_threads, thread_name_prefix="decoder") as pool:
        return list(pool.map(read_one, [source] * len(records), records))


def _unknown(sample: Inputs, vocabularies: Mapping[str, int]) -> str:
    """Return which token of a sample the model does not know; empty if it knows all."""
    parts = parts_of(sample)
    for name, n_known in vocabularies.items():
        outside = parts[name][(parts[name] < 0) | (parts[name] >= n_known)]
        if len(outside):
            return (
                f"{f'{name}: ' if name else ''}got the token {int(outside[0])}, but the model's "
                f"embedding has rows 0 to {n_known - 1}; take the vocabulary of the model"
            )
    return ""


def _misfit(found: Form, expected: Form) -> str:
    if list(found) == list(expected) == [ALONE]:
        got, wanted = found[ALONE], expected[ALONE]
        if got.dtype == wanted.dtype:
            return f"got shape {got.shape}, expected {wanted.shape}"
    return f"got {in_words(found)}, expected {in_words(expected)}"
