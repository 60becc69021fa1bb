"""Runs at due times: the system's scheduler starts them, and nothing of ours waits for it."""

from pipeline.schedule.book import Book, Schedule
from pipeline.schedule.running import Audit, run_occurrence
from pipeline.schedule.times import Times

__all__ = ["Audit", "Book", "Schedule", "Times", "run_occurrence"]
