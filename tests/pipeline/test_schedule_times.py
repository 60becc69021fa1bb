"""When schedules are due, across changes of the clocks, and what `{{ date }}` becomes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from pipeline.errors import ConfigError, ScheduleError
from pipeline.placeholders import names_at
from pipeline.run_file import fill, override, parse
from pipeline.schedule.times import ALIASES, Times

BERLIN = "Europe/Berlin"

# Written by hand. In Berlin clocks go from 02:00 to 03:00 on 29 March 2026 at 01:00 UTC, and from
# 03:00 back to 02:00 on 25 October 2026 at 01:00 UTC. The rules are those of Debian's cron: what is
# due at given hours is due once a day, on the day without that hour as soon as clocks have moved
# on, on the day with two of it the first time; what is due every so often follows the time that
# passes. New York changes on other days (8 March at 07:00 UTC), and India never does.
TABLE = [
    # 02:30 does not exist on the 29th: 03:00 summer time, which is 01:00 UTC
    ("30 2 * * *", BERLIN, "2026-03-28T00:00", ["28T01:30", "29T01:00", "30T00:30"]),
    # two times that do not exist are one that does
    ("0,30 2 * * *", BERLIN, "2026-03-29T00:00", ["29T01:00", "30T00:00", "30T00:30"]),
    ("0 1-4 * * *", BERLIN, "2026-03-28T23:30", ["29T00:00", "29T01:00", "29T02:00"]),
    # every hour: no hour of UTC is left out, although one on the clock is
    ("30 * * * *", BERLIN, "2026-03-28T23:45", ["29T00:30", "29T01:30", "29T02:30"]),
    # half past two comes twice on 25 October: the first, in summer time, counts
    ("30 2 * * *", BERLIN, "2026-10-24T00:00", ["24T00:30", "25T00:30", "26T01:30"]),
    # also for one who asks between the two
    ("30 2 * * *", BERLIN, "2026-10-25T01:10", ["26T01:30", "27T01:30", "28T01:30"]),
    ("30 * * * *", BERLIN, "2026-10-25T00:00", ["25T00:30", "25T01:30", "25T02:30"]),
    ("*/30 2 * * *", BERLIN, "2026-10-25T00:10", ["25T00:30", "25T01:00", "25T01:30"]),
    ("30 2 * * *", "America/New_York", "2026-03-07T00:00", ["07T07:30", "08T07:00", "09T06:30"]),
    ("30 2 * * *", "Asia/Kolkata", "2026-03-28T00:00", ["28T21:00", "29T21:00", "30T21:00"]),
    ("30 2 * * *", "UTC", "2026-03-28T00:00", ["28T02:30", "29T02:30", "30T02:30"]),
    ("30 2 * * *", "UTC", "2026-10-24T12:00", ["25T02:30", "26T02:30", "27T02:30"]),
]


@pytest.mark.parametrize(("cron", "zone", "start", "dues"), TABLE)
def test_due_times_are_those_of_the_table(
    cron: str, zone: str, start: str, dues: list[str]
) -> None:
    moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
    found = list(islice(Times(cron, zone).after(moment), len(dues)))
    assert [f"{due.astimezone(UTC):%dT%H:%M}" for due in found] == dues
    assert {due.tzinfo for due in found} == {ZoneInfo(zone)}


@pytest.mark.parametrize(("cron", "zone", "start", "dues"), TABLE)
def test_the_latest_due_time_is_the_one_before_the_next(
    cron: str, zone: str, start: str, dues: list[str]
) -> None:
    times = Times(cron, zone)
    moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
    listed = [due.astimezone(UTC) for due in islice(times.after(moment), 3)]
    for due, following in pairwise(listed):
        for now in (due, due + timedelta(seconds=59), following - timedelta(microseconds=1)):
            latest = times.latest(now)
            assert latest is not None
            assert latest.astimezone(UTC) == due


def test_what_is_rarely_due_is_found() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    leap, fifth, last = (
        Times(f"0 0 {days}").latest(now) for days in ("29 2 *", "* * 5#5", "L * *")
    )
    assert str(leap) == "2024-02-29 00:00:00+00:00"
    assert str(fifth) == "2026-10-30 00:00:00+00:00"
    assert str(last) == "2026-10-31 00:00:00+00:00"


def test_a_day_that_does_not_begin_at_midnight_is_due_when_it_begins() -> None:
    # in Santiago clocks go from 00:00 to 01:00 on 6 September 2026
    found = next(Times("*/30 * 6 9 *", "America/Santiago").after(datetime(2026, 9, 1, tzinfo=UTC)))
    assert found.isoformat() == "2026-09-06T01:00:00-03:00"


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_expression(alias: str) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    due, same = (next(Times(cron).after(now)) for cron in (alias, ALIASES[alias]))
    assert due == same


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("0 2 * *", "UTC", "has 4 fields, expected 5"),
        ("0 0 2 * * *", "UTC", "has 6 fields, expected 5"),
        ("0 25 * * *", "UTC", "bad hour"),
        ("0 0 31 2 *", "UTC", "bad day-of-month"),
        ("@reboot", "UTC", "no time that comes again"),
        ("0 2 * * *", "Europe/Berln", "'Europe/Berln' is no time zone"),
        ("0 2 * * *", "../etc/passwd", "is no time zone"),
    ],
)
def test_what_is_no_time_is_refused(cron: str, zone: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        next(Times(cron, zone).after(datetime(2026, 1, 1, tzinfo=UTC)))


RUN_FILE = """\
name: audit
model: {source: python, name: "net.py:load", weights: "weights-{{ date }}.safetensors"}
data:
  source: image_folder
  params: {days: ["{{date}}", 3]}
output:
  path: runs/{{ date }}T{{ time }}
explainers:
  lrp: {text: "{{ theirs }}"}
"""
DUE = datetime(2026, 11, 23, 0, 30, tzinfo=ZoneInfo(BERLIN))


def test_placeholders_are_filled_where_places_are_named() -> None:
    values = fill(parse(RUN_FILE, "run.yaml"), DUE).values
    assert values["output"]["path"] == "runs/2026-11-23T0030"
    assert values["model"]["weights"] == "weights-2026-11-23.safetensors"
    assert values["data"]["params"]["days"] == ["2026-11-23", 3]
    # not read for dates: every run would be another one
    assert values["explainers"]["lrp"]["text"] == "{{ theirs }}"
    # a run file as a run keeps it stays as it is, whenever it is read
    again = override(parse(RUN_FILE, "run.yaml"), ["output.path=runs/2026-11-23"])
    assert fill(again, datetime(2030, 1, 1, tzinfo=UTC)).values["output"] == {
        "path": "runs/2026-11-23"
    }


def test_placeholders_of_overrides_are_filled() -> None:
    said = override(parse(RUN_FILE, "run.yaml"), ["output.path=runs/{{ utc }}"])
    # the date is the zone's, and UTC's is the day before
    assert fill(said, DUE).values["output"]["path"] == "runs/20261122T2330Z"


def test_the_hour_that_comes_twice_has_two_names() -> None:
    first, second = (DUE.replace(month=10, day=25, hour=2, fold=fold) for fold in (0, 1))
    assert names_at(first)["time"] == names_at(second)["time"]
    assert names_at(first)["utc"] != names_at(second)["utc"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("runs/{{ day }}", r"run.yaml:7 output.path: \{\{ day \}\} stands for nothing"),
        ("runs/{{ date", "run.yaml:7 output.path: .* does not close it"),
        ("runs/{{ date.__class__ }}", "stands for nothing"),
    ],
)
def test_what_stands_for_nothing_is_refused_with_its_place(path: str, said: str) -> None:
    text = RUN_FILE.replace("runs/{{ date }}T{{ time }}", path)
    with pytest.raises(ConfigError, match=said):
        fill(parse(text, "run.yaml"), DUE)
