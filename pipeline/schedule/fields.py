"""What the fields of a cron expression say, for those that have to say it otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cronsim import CronSim

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.schedule.times import Times

N_WEEKDAYS = 7


@dataclass(frozen=True)
class Fields:
    """The values of each field."""

    texts: tuple[str, ...]
    """The five fields as they are written."""
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    """Days of the month that are numbers."""
    is_last_day: bool
    """Whether the last day of the month is one (``L``)."""
    is_last_workday: bool
    """Whether the last of Monday to Friday in the month is one (``LW``)."""
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    """Days of every week, Sunday 0."""
    nth_weekdays: tuple[tuple[int, int], ...]
    """Day and which of the month's it is (``5#2``)."""
    last_weekdays: tuple[int, ...]
    """Days of which the month's last is one (``5L``)."""

    @classmethod
    def of(cls, times: Times) -> Fields:
        """Return the fields of an expression."""
        read = CronSim(times.expression, datetime(2000, 1, 1, tzinfo=UTC))
        of_week = [day for day in read.weekdays if isinstance(day, int)]
        pairs = [(day[0] % N_WEEKDAYS, day[1]) for day in read.weekdays if isinstance(day, tuple)]
        return cls(
            texts=tuple(times.expression.upper().split()),
            minutes=_sorted(read.minutes),
            hours=_sorted(read.hours),
            days=_sorted(day for day in read.days if day > 0),
            is_last_day=CronSim.LAST in read.days,
            is_last_workday=CronSim.LAST_WEEKDAY in read.days,
            months=_sorted(read.months),
            weekdays=_sorted(day % N_WEEKDAYS for day in of_week),
            nth_weekdays=tuple(sorted(pair for pair in pairs if pair[1] > 0)),
            last_weekdays=_sorted(day for day, which in pairs if which < 0),
        )

    @property
    def is_plain(self) -> bool:
        """Whether all are numbers, without the last or the nth of anything."""
        return not (
            self.is_last_day or self.is_last_workday or self.nth_weekdays or self.last_weekdays
        )

    @property
    def takes_every_day(self) -> bool:
        """Whether the day of the month is any."""
        return len(self.days) == 31

    @property
    def takes_every_weekday(self) -> bool:
        """Whether the day of the week is any."""
        return len(self.weekdays) == N_WEEKDAYS

    @property
    def is_either(self) -> bool:
        """Whether one of day of the month and day of the week is enough; else both have to fit.

        That both have to if one begins with ``*`` is Debian's cron's rule, and cronsim's.
        """
        return not self.texts[2].startswith("*") and not self.texts[4].startswith("*")


def compact(values: Sequence[int], to: str = "-", width: int = 1) -> str:
    """Return sorted numbers as a list of ranges: ``1-5,8``.

    Parameters
    ----------
    values
        The numbers.
    to
        What stands between the ends of a range.
    width
        Digits of each number.
    """
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(
        # two that follow each other are no range: 1,2
        f"{run[0]:0{width}}{to}{run[-1]:0{width}}"
        if len(run) > 2
        else ",".join(f"{value:0{width}}" for value in run)
        for run in runs
    )


def _sorted(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
