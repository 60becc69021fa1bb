"""What a systemd timer misses where clocks change, said in UTC, in which no time is missing.

An ``OnCalendar=`` in a zone elapses by the clock on the wall: not at all at a time that is skipped
in spring, and once, the first time, at one that is repeated in autumn (systemd 252, as
``systemd-analyze calendar`` tells). A schedule is due when the clocks have moved on in spring, and,
where it follows the time that passes, both times in autumn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from cronsim import CronSim

from pipeline.schedule.fields import compact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from zoneinfo import ZoneInfo

    from pipeline.schedule.times import Times

YEARS = 40
"""Calendars come again every 28 years: a rule that holds for 40 holds as long as the law."""
LISTED_YEARS = 10
"""Of changes that follow no rule of weekdays, such as those around Ramadan, so many are listed."""
_DAY = timedelta(days=1)
_WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Extra:
    """Calendar events beside those of the schedule itself."""

    lines: tuple[str, ...]
    until: date | None = None
    """The last day that the lines know of, where no rule says all days."""


def extra(times: Times, since: datetime) -> Extra:
    """Return what a timer needs where clocks change; nothing in zones where they do not.

    Parameters
    ----------
    times
        The schedule.
    since
        From when on, an aware time.
    """
    first = since.astimezone(UTC)
    span = (first.date(), first.date() + timedelta(days=round(365.25 * YEARS)))
    found: dict[tuple[frozenset[date], int], list[int]] = {}
    for (hour, minute), moved in sorted(_missed(times, first, span[1]).items()):
        found.setdefault((frozenset(moved), hour), []).append(minute)
    lines: list[str] = []
    last: list[date] = []
    for (days, hour), minutes in found.items():
        clock = f"{hour:02}:{compact(minutes, '..', 2)}:00 UTC"
        rules = [_rule(days, month, span) for month in sorted({day.month for day in days})]
        said = [rule for rule in rules if rule is not None]
        if len(said) < len(rules):
            near = sorted(day for day in days if day.year < first.year + LISTED_YEARS)
            said = [day.isoformat() for day in near]
            last += near[-1:]
        lines += [f"{days_of} {clock}" for days_of in said]
    return Extra(tuple(lines), min(last) if last else None)


def _missed(times: Times, since: datetime, until: date) -> dict[tuple[int, int], set[date]]:
    """Return the due times, as clocks of UTC with their days, at which no timer elapses."""
    found: dict[tuple[int, int], set[date]] = {}
    upcoming = since
    for change, shift in _changes(times.zone, since, until):
        # in spring only the first moment after the gap; in autumn all of the repeated hour
        end = change - min(shift, timedelta(0))
        if upcoming > end:
            continue
        for due in times.after(change - timedelta(seconds=1)):
            moment = due.astimezone(UTC)
            if moment > end:
                upcoming = moment
                break
            if due.fold or not _is_on_the_clock(times, due):
                found.setdefault((moment.hour, moment.minute), set()).add(moment.date())
    return found


def _is_on_the_clock(times: Times, due: datetime) -> bool:
    """Whether the expression has the time that the clock shows, and it was not moved to it."""
    wall = due.replace(tzinfo=None)
    return next(CronSim(times.expression, wall - timedelta(minutes=1))) == wall


def _changes(zone: ZoneInfo, since: datetime, until: date) -> Iterator[tuple[datetime, timedelta]]:
    """Yield the moments in UTC from which on clocks show another time, and by how much."""
    day, before = since, _offset(since, zone)
    while day.date() < until:
        after = _offset(day + _DAY, zone)
        if after != before:
            low, high = day, day + _DAY
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                is_before = _offset(middle, zone) == before
                low, high = (middle, high) if is_before else (low, middle)
            yield high.replace(microsecond=0), after - before
        day, before = day + _DAY, after


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _rule(days: Iterable[date], month: int, span: tuple[date, date]) -> str | None:
    """Return days of one month in every year as systemd says them, or None if no rule has them."""
    wanted = {day for day in days if day.month == month}
    weekdays = {day.weekday() for day in wanted}
    numbers = {day.day for day in wanted}
    every = (span[0] + timedelta(days=number) for number in range((span[1] - span[0]).days))
    fitting = {
        day
        for day in every
        if day.month == month and day.day in numbers and day.weekday() in weekdays
    }
    if fitting != wanted:
        return None
    of_week = ",".join(_WEEK[number] for number in sorted(weekdays))
    return f"{of_week} *-{month:02}-{compact(sorted(numbers), '..', 2)}"
