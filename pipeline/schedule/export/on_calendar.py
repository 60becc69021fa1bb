"""When a schedule is due, as ``OnCalendar=`` of systemd timers say it (systemd.time(7))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ScheduleError
from pipeline.schedule.fields import N_WEEKDAYS, Fields, compact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.schedule.times import Times

WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_ALL_WEEK = tuple(range(N_WEEKDAYS))
_ALL_MONTH = tuple(range(1, 32))
_LAST = "~01"
"""The last day of a month; ``~02`` is the one before it."""
_LAST_WEEK = "~07/1"
"""Each of the last seven days."""


@dataclass(frozen=True)
class _Days:
    """Days that are in a set of weekdays and in a set of days of the month."""

    weekdays: tuple[int, ...] = _ALL_WEEK
    days: tuple[int, ...] = _ALL_MONTH
    from_end: str = ""
    """Days counted from the month's end, in place of `days`."""


def lines(times: Times) -> list[str]:
    """Return calendar events of which a timer has all: it starts when any of them comes.

    Cron's ``or`` of a day of the month and a weekday is two of them. What they miss where clocks
    change is in `clock_changes`.

    Raises
    ------
    ScheduleError
        If no list of them says exactly the same.
    """
    fields = Fields.of(times)
    months = "*" if len(fields.months) == 12 else compact(fields.months, "..", 2)
    hours = "*" if len(fields.hours) == 24 else compact(fields.hours, "..", 2)
    minutes = "*" if len(fields.minutes) == 60 else compact(fields.minutes, "..", 2)
    clock = f"{hours}:{minutes}:00 {times.timezone}"
    return [
        f"{_of_week(each.weekdays)}*-{months}{_of_month(each)} {clock}"
        for each in _days(fields, times.cron)
    ]


def _of_week(weekdays: Sequence[int]) -> str:
    if len(weekdays) == N_WEEKDAYS:
        return ""
    # from Monday on, as systemd counts
    turned = sorted((day - 1) % N_WEEKDAYS for day in weekdays)
    return ",".join(WEEKDAYS[(day + 1) % N_WEEKDAYS] for day in turned) + " "


def _of_month(each: _Days) -> str:
    if each.from_end:
        return each.from_end
    return "-*" if each.days == _ALL_MONTH else "-" + compact(each.days, "..", 2)


def _days(fields: Fields, cron: str) -> list[_Days]:
    """Return sets of days, whose union is when a schedule is due."""
    of_month, of_week = list(_month_days(fields)), list(_week_days(fields))
    if fields.is_either:
        return [_Days()] if _Days() in (*of_month, *of_week) else [*of_month, *of_week]
    met = [_both(day, other, cron) for day in of_month for other in of_week]
    return [each for each in met if each.weekdays and each.days]


def _month_days(fields: Fields) -> Iterator[_Days]:
    if fields.days:
        yield _Days(days=fields.days)
    if fields.is_last_day:
        yield _Days(from_end=_LAST)
    if fields.is_last_workday:
        # Friday is the last working day if it is the last day, or a weekend comes after it
        yield _Days(weekdays=(1, 2, 3, 4), from_end=_LAST)
        yield _Days(weekdays=(5,), from_end="~03/1")


def _week_days(fields: Fields) -> Iterator[_Days]:
    if fields.weekdays:
        yield _Days(weekdays=fields.weekdays)
    for day, nth in fields.nth_weekdays:
        # the second of any weekday is one of the days 8 to 14
        first = 1 + N_WEEKDAYS * (nth - 1)
        within = range(first, min(first + N_WEEKDAYS, 32))
        yield _Days(weekdays=(day,), days=tuple(within))
    for day in fields.last_weekdays:
        yield _Days(weekdays=(day,), from_end=_LAST_WEEK)


def _both(day: _Days, other: _Days, cron: str) -> _Days:
    """Return the days that are in both sets."""
    weekdays = tuple(each for each in day.weekdays if each in other.weekdays)
    from_end = [each.from_end for each in (day, other) if each.from_end]
    is_counted = any(not each.from_end and each.days != _ALL_MONTH for each in (day, other))
    if len(from_end) > 1 or (from_end and is_counted):
        raise ScheduleError(
            f"{cron!r} asks for days that are counted from both ends of the month, which systemd "
            "cannot say",
            fix="write the day of the month as * there, and make a second schedule for the rest",
            page="schedule-export",
        )
    days = tuple(each for each in day.days if each in other.days)
    return _Days(weekdays, days, "".join(from_end))
