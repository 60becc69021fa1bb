"""A schedule as lines of a crontab."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pipeline.errors import ScheduleError
from pipeline.schedule.fields import Fields, compact

if TYPE_CHECKING:
    from pipeline.schedule.export.entry import Entry
    from pipeline.schedule.times import Times

_UNDERSTOOD = re.compile(r"(\*|\d+-\d+)(/\d+)?|\d+")
"""Terms that every cron reads; names in lists, and steps from a number, some do not."""


def text(entry: Entry) -> str:
    """Return the lines.

    Raises
    ------
    ScheduleError
        If cron cannot say when the schedule is due.
    """
    command = " ".join(shlex.quote(word) for word in (*entry.program, *entry.arguments))
    line = f"cd {shlex.quote(str(entry.folder))} && {command}"
    line = f"{line} >> {shlex.quote(str(entry.log))} 2>&1"
    # of a command cron takes the rest after a percent sign for its input
    escaped = line.replace("%", r"\%")
    return (
        f"# schedule {entry.name}: {entry.schedule.cron} in {entry.schedule.timezone}\n"
        "# CRON_TZ holds for the lines below it, up to the next one: put this at the end of a\n"
        "# crontab, or in a file of its own. cronie (Fedora, Red Hat, Arch) knows it. Debian's\n"
        "# and Ubuntu's cron does not and takes the machine's zone: set that, or use a systemd\n"
        "# timer.\n"
        f"CRON_TZ={entry.schedule.timezone}\n"
        f"{expression(entry.schedule.times)} {escaped}\n"
    )


def expression(times: Times) -> str:
    """Return an expression that every cron understands, and understands alike.

    A field that begins with ``*`` stays as it is written, for that decides whether both days
    have to fit, and what happens when clocks change.

    Raises
    ------
    ScheduleError
        If it has the last or the nth of something.
    """
    fields = Fields.of(times)
    if not fields.is_plain:
        raise ScheduleError(
            f"cron has no {_special(fields)}, which {times.cron!r} needs",
            fix="export it as a systemd timer, which can say it",
            page="schedule-export",
        )
    values = (fields.minutes, fields.hours, fields.days, fields.months, fields.weekdays)
    pairs = zip(fields.texts, values, strict=True)
    return " ".join(text if _is_understood(text) else compact(each) for text, each in pairs)


def _is_understood(text: str) -> bool:
    return all(_UNDERSTOOD.fullmatch(term) for term in text.split(","))


def _special(fields: Fields) -> str:
    if fields.is_last_workday:
        return "last working day of the month (LW)"
    if fields.is_last_day:
        return "last day of the month (L)"
    return "nth or last weekday of the month (#, L)"
