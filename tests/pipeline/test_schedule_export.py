"""What is exported starts an occurrence exactly when the schedule is due."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipeline.errors import ScheduleError
from pipeline.schedule.book import Book, Schedule
from pipeline.schedule.export import Entry, crontab, entry_of, kubernetes, on_calendar, systemd
from pipeline.schedule.times import Times

if TYPE_CHECKING:
    from pathlib import Path

START = date(2026, 11, 1)
N_DAYS = 800  # both kinds of years, and every way in which months and weeks meet
DAYS = [START + timedelta(days=number) for number in range(N_DAYS)]
WEEK = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]

PLAIN = [
    "30 2 * * *",
    "*/30 8-9 * * MON-FRI",
    "0 0 1,15 * 1",  # either: the 1st, the 15th, and every Monday
    "5/20 1 1,15 JAN,JUL *",
    "0 0 1-31 * 1",  # either, and one of them is every day
    "0 0 10-12 * 7",
    "0 0 * 2-3 5-7",
]
BOTH = ["0 0 */2 * 1", "0 0 */10 * */3"]
SPECIAL = ["0 0 L * *", "0 0 LW * *", "0 0 15,LW * *", "0 0 * * 5#2", "0 0 * * 1#5", "0 0 * * 4L"]
MIXED = ["0 0 13 * 5L", "0 0 */2 * 5#2", "0 0 L * */2", "0 0 LW 1-6 3#1"]


def times_of(cron: str) -> Times:
    return Times(cron, "UTC")


@cache
def dues(cron: str) -> set[datetime]:
    """Every minute at which the schedule is due, clocks of UTC."""
    moment = datetime(START.year, START.month, START.day, tzinfo=UTC)
    end = moment + timedelta(days=N_DAYS)
    found = set()
    for due in times_of(cron).after(moment - timedelta(seconds=1)):
        if due >= end:
            break
        found.add(due.replace(tzinfo=None))
    return found


def minutes_of(hours: set[int], minutes: set[int], day: date) -> set[datetime]:
    return {datetime(day.year, day.month, day.day, h, m) for h in hours for m in minutes}


def listed(text: str, least: int, most: int, to: str) -> set[int]:
    """The values of ``*``, ``1-5,8`` or ``*/2``; of one number with a step, as systemd has it."""
    found: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        first, _, last = span.partition(to)
        low = least if span == "*" else int(first)
        high = most if span == "*" or (step and not last) else int(last or first)
        found |= set(range(low, high + 1, int(step or 1)))
    return found


def by_systemd(lines: list[str]) -> set[datetime]:
    """What systemd.time(7) says of each line, day by day."""
    found = set()
    for line in lines:
        *week, calendar, clock, _ = line.split()
        wanted = set(week[0].split(",")) if week else set(WEEK)
        _, months, _, days = re.fullmatch(r"(\*)-([^-~]+)([-~])(.+)", calendar).groups()  # type: ignore[union-attr]
        hours, minutes, _ = clock.split(":")
        for day in DAYS:
            until_end = ((day.replace(day=1) + timedelta(days=32)).replace(day=1) - day).days
            if "~" in calendar:
                # ~07/1 counts down to the last day
                low = int(days.partition("/")[0])
                is_day = until_end <= low if "/" in days else until_end == low
            else:
                is_day = day.day in listed(days, 1, 31, "..")
            if (
                WEEK[day.weekday()] in wanted
                and is_day
                and day.month in listed(months, 1, 12, "..")
            ):
                found |= minutes_of(listed(hours, 0, 23, ".."), listed(minutes, 0, 59, ".."), day)
    return found


def by_cron(expression: str, *, is_kubernetes: bool) -> set[datetime]:
    """What cron(8), or the library of Kubernetes, does with an expression, day by day."""
    minute, hour, of_month, month, of_week = expression.split()
    stars = [of_month, of_week]
    # a field of Kubernetes is any if it is a star alone, one of cron if it begins with it
    is_any = [text == "*" if is_kubernetes else text.startswith("*") for text in stars]
    found = set()
    for day in DAYS:
        number = day.isoweekday() % 7
        weekdays = {each % 7 for each in listed(of_week, 0, 7, "-")}
        fits = [day.day in listed(of_month, 1, 31, "-"), number in weekdays]
        if day.month in listed(month, 1, 12, "-") and (all(fits) if any(is_any) else any(fits)):
            found |= minutes_of(listed(hour, 0, 23, "-"), listed(minute, 0, 59, "-"), day)
    return found


@pytest.mark.parametrize("cron", [*PLAIN, *BOTH, *SPECIAL, *MIXED])
def test_a_timer_elapses_exactly_when_the_schedule_is_due(cron: str) -> None:
    assert by_systemd(on_calendar.lines(times_of(cron))) == dues(cron)


@pytest.mark.parametrize("cron", [*PLAIN, *BOTH])
def test_cron_starts_exactly_when_the_schedule_is_due(cron: str) -> None:
    expression = crontab.expression(times_of(cron))
    assert by_cron(expression, is_kubernetes=False) == dues(cron)


@pytest.mark.parametrize("cron", PLAIN)
def test_kubernetes_starts_exactly_when_the_schedule_is_due(cron: str) -> None:
    expression = kubernetes.expression(times_of(cron))
    assert "7" not in expression.split()[4]
    assert by_cron(expression, is_kubernetes=True) == dues(cron)


@pytest.mark.parametrize("cron", [*SPECIAL, *MIXED])
def test_what_cron_cannot_say_is_refused(cron: str) -> None:
    for expression in (crontab.expression, kubernetes.expression):
        with pytest.raises(ScheduleError, match=r"cron has no (last|nth)"):
            expression(times_of(cron))


@pytest.mark.parametrize("cron", BOTH)
def test_what_kubernetes_would_take_otherwise_is_refused(cron: str) -> None:
    with pytest.raises(ScheduleError, match="Kubernetes would take either"):
        kubernetes.expression(times_of(cron))


def test_what_systemd_cannot_say_is_refused() -> None:
    with pytest.raises(ScheduleError, match="counted from both ends"):
        on_calendar.lines(times_of("0 0 */2 * 5L"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("cron", ["*/30 8-9 * * MON-FRI", "0 0 13 * 5L", "0 0 LW 1-6 3#1"])
def test_systemd_itself_agrees(cron: str) -> None:
    n = 12
    found: set[datetime] = set()
    for line in on_calendar.lines(times_of(cron)):
        command = [
            "systemd-analyze",
            "calendar",
            f"--iterations={n}",
            "--base-time=2026-10-31 23:59",
        ]
        answer = subprocess.run(
            [*command, line],
            capture_output=True,
            text=True,
            check=True,
            env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
        told = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d):00 UTC", answer.stdout)
        found |= {datetime.fromisoformat(each) for each in told}
    expected = sorted(dues(cron))[:n]
    assert sorted(found)[:n] == expected


def entry(folder: Path, **fields: Any) -> Entry:
    book = Book(folder / "schedules")
    book.add("nightly", Schedule(config="run.yaml", cron="0 2 * * *", **fields))
    return entry_of(book, "nightly")


def test_a_crontab_says_zone_folder_command_and_log(tmp_path: Path) -> None:
    folder = tmp_path / "my 100 % audit"
    folder.mkdir()
    *comments, zone, line = crontab.text(entry(folder, timezone="Europe/Berlin")).splitlines()
    assert all(comment.startswith("#") for comment in comments)
    assert zone == "CRON_TZ=Europe/Berlin"
    escaped = str(folder).replace("%", r"\%")
    assert line.startswith(f"0 2 * * * cd '{escaped}' && /")
    assert f" schedule run nightly >> '{escaped}/schedules/nightly.log' 2>&1" in line


def test_units_are_quoted_as_systemd_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "my 100 % $audit"
    folder.mkdir()
    made = entry_of(_elsewhere(folder), "nightly")
    units = systemd.units(made)
    service, timer = units["xpipe-nightly.service"], units["xpipe-nightly.timer"]
    assert f"WorkingDirectory={tmp_path}/my 100 %% $audit\n" in service
    assert f' schedule run nightly --in "{tmp_path}/my 100 %% $$audit/plans"\n' in service
    assert "OnCalendar=*-*-* 02:00:00 UTC\n" in timer


def _elsewhere(folder: Path) -> Book:
    book = Book(folder / "plans")
    book.add("nightly", Schedule(config="run.yaml", cron="0 2 * * *"))
    return book


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    folder = tmp_path / "my audit"
    folder.mkdir()
    for file, text in systemd.units(entry(folder)).items():
        (tmp_path / file).write_text(text)
    answer = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.glob("xpipe-*"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "xpipe-nightly" not in answer.stderr


def test_a_cron_job_forbids_overlap_and_keeps_its_zone(tmp_path: Path) -> None:
    made = entry(tmp_path, timezone="Europe/Berlin")
    job = yaml.safe_load(kubernetes.text(made, image="registry/xpipe:1", claim="audits"))
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == (
        "batch/v1",
        "CronJob",
        "nightly",
    )
    spec = job["spec"]
    assert spec["schedule"] == "0 2 * * *"
    assert spec["timeZone"] == "Europe/Berlin"
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry/xpipe:1"
    assert container["args"] == ["schedule", "run", "nightly", "--take-over"]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "audits"}
    assert pod["restartPolicy"] == "Never"  # without it, podFailurePolicy is refused
    assert "env" not in container


def test_a_cron_job_of_a_cluster_has_its_token_from_a_secret(tmp_path: Path) -> None:
    made = entry(tmp_path, address="http://head:8265")
    text = kubernetes.text(made, image="x", claim="y")
    assert "kubectl create secret generic xpipe-ray-token --from-literal=auth_token=" in text
    job = yaml.safe_load(text)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    mode, token = container["env"]
    assert mode == {"name": "RAY_AUTH_MODE", "value": "token"}
    # the key that KubeRay's authOptions reads
    secret = {"name": "xpipe-ray-token", "key": "auth_token"}
    assert token["valueFrom"]["secretKeyRef"] == secret
