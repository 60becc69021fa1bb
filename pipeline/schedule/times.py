"""When a schedule is due: a cron expression in a time zone, read by cronsim."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pipeline.errors import ScheduleError

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_LOOK_BACK = (
    timedelta(hours=2),
    timedelta(days=2),
    timedelta(days=40),
    timedelta(days=400),
    # the longest that 29 February can be away, across a century without a leap day
    timedelta(days=8 * 366),
    timedelta(days=50 * 366),
)
"""How far back the last due time is looked for, wider and wider: every minute is 120 steps of the
first, and what is not in one of them is rare enough to be found in few steps of the next."""


@dataclass(frozen=True)
class Times:
    """The due times of a cron expression.

    A time that the clocks skip in spring is due when they have moved on (02:30 becomes 03:00), and
    one that they repeat in autumn is due once, the first time: as Debian's cron does it. What
    is due every so many minutes or hours (minute or hour begin with ``*``) follows the time that
    passes, whatever clocks show.
    """

    cron: str
    """Minute, hour, day of the month, month, day of the week; or an alias such as ``@daily``."""
    timezone: str = "UTC"
    """Zone by IANA's name in which the expression is meant."""

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone.

        Raises
        ------
        ScheduleError
            If there is no such zone.
        """
        try:
            return ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ScheduleError(
                f"{self.timezone!r} is no time zone",
                fix="give a name of the IANA data base, such as Europe/Berlin or UTC",
                page="cron-expression",
            ) from error

    @cached_property
    def expression(self) -> str:
        """The five fields, aliases spelled out.

        Raises
        ------
        ScheduleError
            If they cannot be read.
        """
        written = self.cron.strip()
        text = " ".join(ALIASES.get(written.lower(), written).split())
        fix = "write minute hour day month weekday, such as '0 2 * * *', or @daily"
        if text.startswith("@"):
            known = ", ".join(ALIASES)
            raise ScheduleError(
                f"{self.cron!r} is no time that comes again; known are {known}",
                fix=fix,
                page="cron-expression",
            )
        n_fields = len(text.split())
        if n_fields != 5:
            raise ScheduleError(
                f"the cron expression {self.cron!r} has {n_fields} fields, expected 5",
                fix=fix,
                page="cron-expression",
            )
        try:
            CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ScheduleError(
                f"the cron expression {self.cron!r} cannot be read: {str(error).lower()}",
                fix=fix,
                page="cron-expression",
            ) from error
        return text

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the due times after a moment, in the schedule's zone, oldest first."""
        last = moment.astimezone(UTC)
        # where clocks go back cronsim takes the first of two equal times for the second, too: a
        # start before them sees both, and what is not after the moment is dropped below
        start = (last - timedelta(hours=3)).astimezone(self.zone)
        for found in CronSim(self.expression, start):
            # by way of UTC: midnight, at which some days of some zones do not begin, is made real
            due = found.astimezone(UTC)
            if due > last:
                last = due
                yield due.astimezone(self.zone)

    def latest(self, moment: datetime) -> datetime | None:
        """Return the last due time that is not after a moment, or None if there is none."""
        for width in _LOOK_BACK:
            found = None
            for due in self.after(moment - width):
                # aware times of one zone are compared by their clocks, which go back in autumn
                if due.astimezone(UTC) > moment.astimezone(UTC):
                    break
                found = due
            if found is not None:
                return found
        return None

    def changes_of_clock(self, start: datetime, days: int = 366) -> list[datetime]:
        """Return the hours, in UTC, after which the zone's offset is another one."""
        hours = [start.astimezone(UTC) + timedelta(hours=hour) for hour in range(days * 24)]
        offsets = [hour.astimezone(self.zone).utcoffset() for hour in hours]
        pairs = pairwise(offsets)
        return [hour for hour, (now, then) in zip(hours, pairs, strict=False) if now != then]
