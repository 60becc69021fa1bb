"""A timer starts what is due also on the days on which clocks change."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

import pytest

from pipeline.schedule.book import Book, Schedule
from pipeline.schedule.export import clock_changes, entry_of, systemd
from pipeline.schedule.times import Times

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 1, tzinfo=UTC)
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
BEIRUT, SYDNEY, CASABLANCA = "Asia/Beirut", "Australia/Sydney", "Africa/Casablanca"
# when clocks change
SPRING = [
    (BERLIN, "2027-03-28T01"),
    (NEW_YORK, "2028-03-12T07"),
    (BEIRUT, "2027-03-27T22"),
    (SYDNEY, "2028-09-30T16"),
]
AUTUMN = [(BERLIN, "2027-10-31T01"), (NEW_YORK, "2028-11-05T06"), (BEIRUT, "2027-10-30T21")]
AROUND = timedelta(hours=9)
# an expression, and how often a line of it can elapse in that time
CRONS = {"30 2 * * *": 3, "0 0 * * *": 3, "15,45 2-3 * * 0": 6, "*/30 * * * *": 38}


def lines(cron: str, zone: str, folder: Path) -> list[str]:
    """The calendar events of the timer that is exported."""
    book = Book(folder / f"schedules {list(CRONS).index(cron)}")
    book.add("x", Schedule(config="run.yaml", cron=cron, timezone=zone))
    timer = systemd.units(entry_of(book, "x"), NOW)["xpipe-x.timer"]
    return re.findall(r"OnCalendar=(.*)", timer)


def elapsed(line: str, start: datetime, n: int) -> set[datetime]:
    """What systemd itself says of a line, in UTC."""
    base = f"--base-time={start:%Y-%m-%d %H:%M:%S} UTC"
    answer = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={n}", base, line],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    told = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d):00 UTC\n", answer.stdout)
    return {datetime.fromisoformat(each).replace(tzinfo=UTC) for each in told}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(("zone", "change"), [*SPRING, *AUTUMN])
def test_systemd_starts_what_is_due_around_a_change(zone: str, change: str, tmp_path: Path) -> None:
    moment = datetime.fromisoformat(f"{change}:00+00:00")
    start, end = moment - AROUND, moment + AROUND
    for cron, n in CRONS.items():
        dues = (due.astimezone(UTC) for due in Times(cron, zone).after(start))
        expected = set(takewhile(lambda due: due < end, dues))
        found: set[datetime] = set()
        for line in lines(cron, zone, tmp_path):
            found |= elapsed(line, start, n)
        assert {each for each in found if start < each < end} == expected, cron


@pytest.mark.parametrize(
    ("cron", "zone", "expected"),
    [
        ("30 2 * * *", BERLIN, ("Sun *-03-25..31 01:00:00 UTC",)),
        ("30 2 * * *", NEW_YORK, ("Sun *-03-08..14 07:00:00 UTC",)),
        ("0 0 * * *", BEIRUT, ("Sat *-03-24..30 22:00:00 UTC",)),
        # the first Sunday of October there is the Saturday before it in UTC
        (
            "30 2 * * *",
            SYDNEY,
            ("Sat *-09-30 16:00:00 UTC", "Sat *-10-01..06 16:00:00 UTC"),
        ),
        ("*/30 * * * *", BERLIN, ("Sun *-10-25..31 01:00,30:00 UTC",)),
        ("30 2 28 * *", BERLIN, ("Sun *-03-28 01:00:00 UTC",)),
        ("0 3 * * *", BERLIN, ()),
        ("30 2 * 6 *", BERLIN, ()),
        ("0 2 * * *", "UTC", ()),
    ],
)
def test_what_a_timer_misses_is_said_by_the_rule_of_the_zone(
    cron: str, zone: str, expected: tuple[str, ...]
) -> None:
    assert clock_changes.extra(Times(cron, zone), NOW) == clock_changes.Extra(expected)


def test_changes_without_a_rule_are_listed_and_said_to_run_out(tmp_path: Path) -> None:
    """Clocks of Morocco go back for Ramadan."""
    book = Book(tmp_path / "schedules")
    book.add("x", Schedule(config="run.yaml", cron="30 2 * * *", timezone=CASABLANCA))
    timer = systemd.units(entry_of(book, "x"), NOW)["xpipe-x.timer"]
    assert "OnCalendar=2027-03-14 02:00:00 UTC" in timer
    assert "known until 2035-12-09; export again before" in timer
