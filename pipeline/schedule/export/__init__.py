"""Schedules as entries of the scheduler that a system has."""

from pipeline.schedule.export.entry import Entry, entry_of

__all__ = ["Entry", "entry_of"]
