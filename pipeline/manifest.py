"""The samples of a run, in the order that everything is cut and stored in."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.digests import differ, is_of_content
from pipeline.data.source import Record
from pipeline.errors import PlanError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("mask", pa.string()),
        pa.field("length", pa.int64()),
        pa.field("digest", pa.string()),
    ]
)
_DIGEST = "digest"
"""The column that manifests of earlier versions do not have."""


class Manifest:
    """Records numbered from 0, kept as columns.

    Parameters
    ----------
    records
        In order; `index` must be the position.

    Raises
    ------
    PlanError
        If an index is not the position, or two samples have the same id.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
        self._table = pa.Table.from_pydict(columns, schema=SCHEMA)
        self._check()

    @classmethod
    def _of(cls, table: pa.Table) -> Manifest:
        manifest = cls.__new__(cls)
        manifest._table = table
        manifest._check()
        return manifest

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and bool(self._table.equals(other._table))

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.slice(0, len(self)))

    @property
    def table(self) -> pa.Table:
        """The columns."""
        return self._table

    @property
    def labels(self) -> np.ndarray:
        """Class indices, int64; -1 where not known."""
        return np.asarray(self._table["label"])

    @property
    def sample_ids(self) -> list[str]:
        """Ids, in order."""
        found: list[str] = self._table["sample_id"].to_pylist()
        return found

    @property
    def lengths(self) -> np.ndarray:
        """Numbers of tokens, int64; 0 where not known."""
        return np.asarray(self._table["length"].fill_null(0))

    @property
    def has_lengths(self) -> bool:
        """Whether samples say how long they are."""
        return bool((self.lengths > 0).any())

    def by_length(self, *, is_descending: bool) -> Iterator[Record]:
        """Yield the records that say how long they are, by length, then in order."""
        lengths = self.lengths
        order = np.argsort(-lengths if is_descending else lengths, kind="stable")
        for row in order[lengths[order] > 0].tolist():
            yield self.slice(row, row + 1)[0]

    @property
    def n_masks(self) -> int:
        """Samples that have a mask."""
        return len(self) - int(self._table["mask"].null_count)

    def slice(self, start: int, stop: int) -> list[Record]:
        """Return the records from `start` to `stop` (exclusive)."""
        return [Record(**row) for row in self._table.slice(start, stop - start).to_pylist()]

    def digest(self) -> str:
        """Return the sha256 of the content, whatever file format it is kept in.

        Of the samples' own digests, those count that stand for content. Where there are none, it
        is that of a manifest without them, as earlier versions wrote it.
        """
        digest = hashlib.sha256()
        for name in SCHEMA.names:
            values = self._table[name].to_pylist()
            if name == _DIGEST:
                values = [value if is_of_content(value) else None for value in values]
                if not any(values):
                    continue
            column = json.dumps(values, separators=(",", ":"))
            digest.update(f"{name}:{column}\n".encode())
        return digest.hexdigest()

    def changed(self, now: Manifest) -> list[str]:
        """Return the ids of samples that are not what they were, as far as their digests tell."""
        there = {record.sample_id: record.digest for record in now}
        return [
            record.sample_id
            for record in self
            if differ(record.digest, there.get(record.sample_id))
        ]

    def write(self, url: str) -> None:
        """Write the manifest as parquet."""
        with fsspec.open(str(url), "wb") as file:
            pq.write_table(self._table, file)

    @classmethod
    def read(cls, url: str) -> Manifest:
        """Return the manifest in a parquet file.

        Raises
        ------
        StoreError
            If there is none, or it is not a manifest.
        """
        try:
            with fsspec.open(str(url), "rb") as file:
                table = pq.read_table(file)
            if _DIGEST not in table.column_names:
                table = table.append_column(_DIGEST, pa.nulls(len(table), pa.string()))
            return cls._of(table.select(SCHEMA.names).cast(SCHEMA))
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise StoreError(
                f"cannot read the manifest {str(url)!r}: {error}",
                fix="name a folder that a run wrote; `xpipe resume` writes a damaged manifest anew",
                page="damaged-documents",
            ) from error

    def _check(self) -> None:
        index = np.asarray(self._table["index"])
        if not np.array_equal(index, np.arange(len(self))):
            raise PlanError(
                "the samples of the manifest are not numbered 0, 1, 2, ...",
                fix="a source numbers its records by position",
            )
        ids = self.sample_ids
        if len(set(ids)) != len(ids):
            seen: set[str] = set()
            twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise PlanError(
                f"two samples have the id {twice!r}, expected one each",
                fix="a source gives every sample an id of its own",
                page="duplicate-ids",
            )
