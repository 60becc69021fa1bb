"""Which runs of a schedule are kept: the last few finished ones, and what is compared with."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.errors import RunConflictError
from pipeline.ownership import lock
from pipeline.schedule import baselines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.schedule.book import Book, Schedule
    from pipeline.schedule.history import History, Occurrence


def tidy(
    book: Book, schedule: Schedule, history: History, current: Occurrence
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove the runs of a schedule that are no longer kept.

    Never removed are: a run that did not come to its end, for it may be resumed; one on which
    somebody works; `current`; what it was, or the next one will be, compared with; and a folder
    that the schedule did not begin, or that holds another run now.

    Returns
    -------
    tuple
        The folders that were removed, and what could not be.
    """
    if schedule.keep is None:
        return (), ()
    removed, notes = [], []
    for occurrence in list(_superfluous(book, schedule, history, current, schedule.keep)):
        path = book.located(occurrence.path)
        try:
            with _held(path):
                # first, so that a removal that is cut off is neither compared with nor counted
                history.write(replace(occurrence, is_removed=True))
                _remove(paths.Folder(path))
        except RunConflictError as error:
            notes.append(f"{path} is not removed: {error.what}")
        else:
            removed.append(path)
    return tuple(removed), tuple(notes)


def _superfluous(
    book: Book, schedule: Schedule, history: History, current: Occurrence, keep: int
) -> Iterator[Occurrence]:
    following = baselines.of(book, schedule, history)
    spared = {current.path, current.compared_with, following.path if following else ""}
    n_kept = 0
    for occurrence in reversed(history.all()):
        # one that is marked as removed and has its plan still was cut off, and is done again
        if not occurrence.is_ours or not baselines.holds(book, occurrence):
            continue
        n_kept += not occurrence.is_removed
        is_over = n_kept > keep or occurrence.is_removed
        if is_over and occurrence.path not in spared:
            yield occurrence


@contextlib.contextmanager
def _held(path: str) -> Iterator[None]:
    """Keep everybody from going on with a run while it is removed.

    Raises
    ------
    RunConflictError
        If somebody works on it, or may on another host.
    """
    mine = lock.acquire(path)
    try:
        yield
    finally:
        # where the folder is gone, so is what says whose it is
        if paths.Folder(path).exists(paths.PLAN):
            lock.release(path, mine)


def _remove(folder: paths.Folder) -> None:
    """Remove a run, its plan last: until then it is known for the run that it is."""
    for name in folder.entries():
        if name != paths.PLAN:
            folder.remove(name)
    folder.remove(paths.PLAN)
    folder.remove("")
