"""Samples: where they come from, which are taken, and reading them a batch at a time."""

from __future__ import annotations

from pipeline.data.batch import read_batch, read_masks, read_one
from pipeline.data.selection import open_source, select_records, selection_notes
from pipeline.data.source import Record, Source, register, sources

__all__ = [
    "Record",
    "Source",
    "open_source",
    "read_batch",
    "read_masks",
    "read_one",
    "register",
    "select_records",
    "selection_notes",
    "sources",
]
