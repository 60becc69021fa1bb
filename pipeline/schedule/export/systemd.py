"""A schedule as a service and a timer of systemd."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.errors import ScheduleError
from pipeline.schedule.export import clock_changes, on_calendar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.schedule.export.entry import Entry

PREFIX = "xpipe-"


def units(entry: Entry, now: datetime | None = None) -> dict[str, str]:
    """Return the texts of the units by the names of their files.

    Parameters
    ----------
    entry
        What is started.
    now
        From when on changes of the clocks count, an aware time; the present one if not given.

    Raises
    ------
    ScheduleError
        If a timer cannot say when the schedule is due, or a path has a line break.
    """
    name = PREFIX + entry.name
    timer = _timer(entry, now or datetime.now(UTC))
    return {f"{name}.service": _service(entry), f"{name}.timer": timer}


def _service(entry: Entry) -> str:
    return f"""\
[Unit]
Description=xpipe schedule {entry.name}

[Service]
Type=oneshot
WorkingDirectory={_specified(str(entry.folder))}
ExecStart={_command((*entry.program, *entry.arguments))}
# a run takes the time it takes; asked to stop it finishes the shards in flight
TimeoutStartSec=infinity
TimeoutStopSec=15min
KillMode=mixed
KillSignal=SIGINT
# 4 is a broken gate and 5 are failed samples: the unit fails, and OnFailure= can tell somebody
"""


def _timer(entry: Entry, now: datetime) -> str:
    times = entry.schedule.times
    events = "\n".join(f"OnCalendar={each}" for each in on_calendar.lines(times))
    extra = clock_changes.extra(times, now)
    if extra.lines:
        events += "\n# what these miss where clocks change"
    if extra.until is not None:
        events += (
            f"\n# no rule says when that is in {times.timezone}: known until {extra.until}; export "
            "again before"
        )
    events += "".join(f"\nOnCalendar={each}" for each in extra.lines)
    return f"""\
[Unit]
Description={_specified(f"{entry.schedule.cron} in {entry.schedule.timezone}")}

[Timer]
{events}
# what was due while the machine was off is done when it is on again
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _command(words: Sequence[str]) -> str:
    """Return a command line as ``ExecStart=`` reads it, which is not as a shell does."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    escaped = _specified(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    is_plain = all(character.isalnum() or character in "/._-%$=:+," for character in escaped)
    return escaped if is_plain and escaped else f'"{escaped}"'


def _specified(text: str) -> str:
    """Return a text in which systemd finds no specifiers such as ``%h``."""
    if "\n" in text:
        raise ScheduleError(
            f"{text!r} has a line break, which units cannot have", fix="rename the folder"
        )
    return text.replace("%", "%%")
