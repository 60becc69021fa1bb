"""Batches are read while the one before is computed."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.data import read_batch
from pipeline.inputs import mapped
from pipeline.lengths import batches
from pipeline.threads import processors

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from pipeline.data import Record, Source
    from pipeline.inputs import Form, Inputs
    from pipeline.lengths import Lengths
    from pipeline.manifest import Manifest
    from pipeline.shards import Shard

logger = logging.getLogger(__name__)

DEPTH = 2
"""Batches that are being read or wait; a second one covers a batch that is slow to decode."""

N_WAITING = 8
"""Threads that read from a network: an object store takes some ten milliseconds to answer, and an
image some to decode, so that about so many keep one processor at work."""


@dataclass(frozen=True)
class Batch:
    """Samples that could be read, and why others could not."""

    inputs: Inputs
    """``(good, ...)``, on the CPU."""
    rows: list[int]
    """Position of each within the shard."""
    index: Tensor
    """Position of each in the manifest, ``(good,)``."""
    label: Tensor
    """Class index of each, ``(good,)``."""
    sample_ids: tuple[str, ...]
    """Of all samples of the batch."""
    failures: dict[int, str]
    """Position within the shard to reason."""


@dataclass(frozen=True)
class Reader:
    """Reads the batches of a shard ahead.

    Parameters
    ----------
    source, manifest
        Where samples are, and which.
    form
        Of one sample.
    executor
        One thread, so that sources see one call at a time.
    is_pinned
        Whether batches go to page-locked memory, from which copies to a GPU are asynchronous.
    lengths
        Of samples that differ in it; `form` is then that of the longest.
    vocabularies
        How many tokens the model knows, by input.
    decoders
        Threads that share the samples of a batch; those of each batch alone if None.
    depth
        Batches that are being read or wait: so many, and the one that is computed, are in memory.
    """

    source: Source
    manifest: Manifest
    form: Form
    executor: Executor
    is_pinned: bool
    lengths: Lengths | None = None
    vocabularies: Mapping[str, int] = field(default_factory=dict)
    decoders: Executor | None = None
    depth: int = DEPTH

    def batches(
        self, shard: Shard, batch_size: int, wanted: Sequence[int] | None = None
    ) -> Generator[Batch, None, None]:
        """Yield the batches of a shard in order; of `wanted` rows alone, if not None.

        Each holds samples of one length, see `lengths.batches`.
        """
        pending: deque[Future[Batch]] = deque()
        records = self.manifest.slice(shard.start, shard.stop)
        rows = range(len(records)) if wanted is None else wanted
        try:
            for some in batches([records[row].length for row in rows], batch_size):
                part = [rows[position] for position in some]
                chosen = [records[row] for row in part]
                pending.append(self.executor.submit(self._read, chosen, part))
                if len(pending) > self.depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _read(self, records: Sequence[Record], rows: Sequence[int]) -> Batch:
        form, length, misfit = self.form, records[0].length, ""
        if self.lengths is not None:
            form = self.lengths.form(form, length)
            misfit = self.lengths.misfit(length) if length else ""
        readable = [] if misfit else records
        inputs, good, failures = read_batch(
            self.source, readable, form, self.vocabularies, self.decoders
        )
        if misfit:
            failures = dict.fromkeys(range(len(records)), misfit)
        return Batch(
            inputs=mapped(Tensor.pin_memory, inputs) if self.is_pinned else inputs,
            rows=[rows[position] for position in good],
            index=torch.tensor([records[position].index for position in good], dtype=torch.int64),
            label=torch.tensor([records[position].label for position in good], dtype=torch.int64),
            sample_ids=tuple(record.sample_id for record in records),
            failures={rows[position]: reason for position, reason in failures.items()},
        )


def open_decoders(source: Source, asked: int | Literal["auto"] = "auto") -> ThreadPoolExecutor:
    """Return the threads that read samples of a source, which last as long as a worker.

    Parameters
    ----------
    source
        Says how many are of use, and whether two may call it at once.
    asked
        How many; if auto, what is of use, but no more than there are processors; `N_WAITING` if
        reading waits for a network.
    """
    n_threads = source.decode_threads
    if asked == "auto" and n_threads > 1:
        n_threads = N_WAITING if source.is_remote else min(n_threads, processors())
    elif asked == "auto":
        n_threads = 1
    elif n_threads > 1:
        n_threads = asked
    elif asked > 1:
        logger.warning(
            "engine.decode_threads is %s, but the data source %r is read by one thread",
            asked,
            source.name,
        )
    return ThreadPoolExecutor(n_threads, thread_name_prefix="decoder")
