"""How long everything took: the ledger's records as one table, ``timings.parquet``."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet

if TYPE_CHECKING:
    import os

    from pipeline.events import Event
    from pipeline.ledger import Entry
    from pipeline.store import Run

FILE = "timings.parquet"
"""Where the table is in a run's folder."""

SCHEMA = pa.schema(
    [
        ("pass", pa.string()),
        ("shard", pa.int64()),
        ("attempt", pa.int64()),
        ("epoch", pa.int64()),
        ("worker", pa.string()),
        ("started", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
        ("read_seconds", pa.float64()),
        ("compute_seconds", pa.float64()),
        ("write_seconds", pa.float64()),
        ("batch_size", pa.int64()),
        ("peak_memory", pa.int64()),
        ("n_samples", pa.int64()),
        ("n_failed", pa.int64()),
    ]
)
"""A row per shard of a pass: what its record says; ``seconds`` runs from start to commit, and
``started`` is by the worker's clock."""


def table(run: Run) -> pa.Table:
    """Return a row per shard that is done, passes in the order of the plan, then by name.

    Parameters
    ----------
    run
        The run, finished or not.
    """
    planned = [each.name for each in run.plan.passes]
    names = dict.fromkeys((*planned, *run.ledger.passes()))
    rows = [_row(entry) for name in names for entry in run.entries(name).values()]
    return pa.Table.from_pylist(rows, SCHEMA)


def write(run: Run) -> None:
    """Write the table into the run's folder.

    Raises
    ------
    StoreError
        If the file system refuses.
    """
    content = io.BytesIO()
    pyarrow.parquet.write_table(table(run), content)
    run.folder.write(FILE, content.getvalue())


class TimingsTable:
    """A callback that writes the table when a start of a run is over, and anything happened.

    Parameters
    ----------
    path
        Folder of the run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._has_happened = False

    def __call__(self, event: Event) -> None:
        """Take notice that something happened."""
        self._has_happened = True

    def close(self) -> None:
        """Write the table."""
        from pipeline.store import open_run

        if self._has_happened:
            write(open_run(self._path))


def _row(entry: Entry) -> dict[str, object]:
    values = {name: getattr(entry, name) for name in SCHEMA.names if hasattr(entry, name)}
    # scores and spectra are made in one go, and have no phases
    phases = {f"{name}_seconds": seconds for name, seconds in entry.phases.items()}
    started = datetime.fromtimestamp(entry.started, UTC)
    return {**values, **phases, "pass": entry.pass_name, "started": started}
