"""Whether a schedule can be kept: what would fail at night is refused when it is added."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from pipeline import run_file
from pipeline.config import validate
from pipeline.errors import ScheduleError
from pipeline.schedule.running import due_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pipeline.schedule.book import Book, Schedule

_LOOK_AHEAD = 200
"""Due times of which any two that follow each other need folders of their own."""
_AROUND = timedelta(hours=4)
"""Before and after a change of the clocks, which may repeat an hour and with it a folder."""


def check(book: Book, name: str, schedule: Schedule, now: datetime) -> list[str]:
    """Refuse a schedule whose next run could not start, and return what else is to be said.

    Raises
    ------
    ScheduleError
        If it is never due, or two of its runs would share a folder.
    ConfigError
        If the run file cannot be run at its next date.
    """
    due = next(schedule.times.after(now), None)
    if due is None:
        due_at(schedule, name, now)
        raise ScheduleError(
            f"schedule {name!r} ({schedule.cron}) is never due again", fix="mend its expression"
        )
    said, folder = book.run_file_at(schedule, due)
    config = validate(said, folder)
    _refuse_shared_folders(book, name, schedule, now)
    relative = [gate for gate in config.gates if not isinstance(gate, str)]
    if relative and not schedule.compare:
        return [f"{len(relative)} gates are about changes, and are judged with --compare only"]
    if schedule.compare and not relative:
        return ["changes are told and nothing is judged: the run file has no gates about them"]
    return []


def _refuse_shared_folders(book: Book, name: str, schedule: Schedule, now: datetime) -> None:
    opened, _ = book.run_file_at(schedule, None)
    for dues in _stretches(schedule, now):
        for due, following in pairwise(dues):
            paths = [_path(opened, moment) for moment in (due, following)]
            if paths[0] == paths[1]:
                raise ScheduleError(
                    f"what schedule {name!r} starts at {due.isoformat()} and at "
                    f"{following.isoformat()} has one folder, {paths[0]!r}: the second would find "
                    "the first one's run done, and do nothing",
                    fix="write {{ date }}, with {{ time }} or {{ utc }} where it is due more often "
                    "than daily, into output.path: -s 'output.path=runs/audit-{{ utc }}'",
                    page="schedule-shared-folder",
                )


def _path(opened: run_file.RunFile, moment: datetime) -> str:
    output = run_file.fill(opened, moment).values.get("output")
    # without a path it is runs/<name>, whatever the date
    return str(output.get("path", "")) if isinstance(output, dict) else ""


def _stretches(schedule: Schedule, now: datetime) -> Iterator[list[datetime]]:
    """Yield due times that follow each other: the next ones, and those around changes of clocks."""
    yield list(islice(schedule.times.after(now), _LOOK_AHEAD))
    for change in schedule.times.changes_of_clock(now):
        dues = islice(schedule.times.after(change - _AROUND), 2 * _LOOK_AHEAD)
        end = (change + _AROUND).timestamp()
        yield [due for due in dues if due.timestamp() <= end]
