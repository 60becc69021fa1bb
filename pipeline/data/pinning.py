"""Digests of the content of samples, for which each is read once when a run is planned."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data import digests
from pipeline.data.batch import read_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.source import Record, Source

N_READERS = 16
"""Samples that are read at once: most of the time they wait for a disk or a network, the latency
of which is hidden by about so many."""


def pinned(source: Source, records: Sequence[Record]) -> list[Record]:
    """Return records with the digests of their content.

    One that cannot be read has none, and gets its status when it is explained.
    """
    n_threads = N_READERS if source.decode_threads > 1 else 1
    with ThreadPoolExecutor(n_threads, thread_name_prefix="digests") as pool:
        found = list(pool.map(_digest, [source] * len(records), records))
    return [replace(record, digest=digest) for record, digest in zip(records, found, strict=True)]


def _digest(source: Source, record: Record) -> str | None:
    # without what a listing said, which would be checked: a change since has a digest, too
    unchecked = replace(record, digest=None)
    if not source.has_content:
        sample = read_one(source, unchecked)
        return None if isinstance(sample, str) else digests.of_values(sample)
    try:
        content = source.content(unchecked)
    except Exception:
        # sources are anybody's code over anybody's files
        return None
    return digests.of_content(content)
