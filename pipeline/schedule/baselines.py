"""What an audit is compared with: the finished run of its schedule before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.plan import Plan

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.schedule.book import Book, Schedule
    from pipeline.schedule.history import History, Occurrence


def of(
    book: Book, schedule: Schedule, history: History, *, before: datetime | None = None
) -> Occurrence | None:
    """Return the occurrence that one is compared with, or None if there is none yet.

    Parameters
    ----------
    book, schedule, history
        Whose.
    before
        The due time of the one that is compared; the next one's if not given.
    """
    for occurrence in reversed(history.all()):
        is_earlier = before is None or occurrence.moment.timestamp() < before.timestamp()
        is_sound = occurrence.has_passed or schedule.baseline == "previous"
        if is_earlier and is_sound and is_there(book, occurrence):
            return occurrence
    return None


def is_there(book: Book, occurrence: Occurrence) -> bool:
    """Whether an occurrence has a finished run that can be compared with."""
    return not occurrence.is_removed and holds(book, occurrence)


def holds(book: Book, occurrence: Occurrence) -> bool:
    """Whether the folder of an occurrence still holds its finished run, and no other one."""
    if not occurrence.is_finished or not occurrence.digest:
        return False
    folder = paths.Folder(book.located(occurrence.path))
    if not folder.exists(paths.PLAN):
        return False
    return Plan.read(folder.at_url(paths.PLAN)).digest == occurrence.digest
