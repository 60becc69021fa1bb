"""Occurrences of a schedule: one folder each, compared, kept for a while, never two at once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.errors import PlanError, RunConflictError, ScheduleError
from pipeline.ownership import lock
from pipeline.schedule.book import Book, Schedule
from pipeline.schedule.checking import check
from pipeline.schedule.history import History
from pipeline.schedule.running import run_occurrence
from tests.pipeline.compared import N, make, some_maps

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.schedule.running import Audit

DAY = timedelta(days=1)
DUE = datetime(2026, 11, 1, 2, tzinfo=UTC)
GATE = {"metric": "sparseness", "max_drop": 0.1}

RUN_FILE = """\
name: audit
model: {source: torchvision, name: resnet18}
data: {source: mnist5k}
explainers: {lrp: {}}
metrics: {sparseness: {}}
gates: [{metric: sparseness, max_drop: 0.1}]
output: {path: "runs/{{ date }}"}
"""


class Fake:
    """Stands for a run: writes its folder with scores that are all shifted, without a network."""

    def __init__(self, shift: float = 0.0, exit_code: int = 0, *, ids: Any = None) -> None:
        self.shift, self.exit_code, self.ids = shift, exit_code, ids
        self.n_starts = 0

    def __call__(self, config: RunConfig, *, take_over: bool) -> int:
        self.n_starts += 1
        path = Path(config.output.path)
        if not (path / "plan.json").exists():
            scores = {"sparseness": np.linspace(0, 1, N) + self.shift}
            maps = {"lrp": some_maps(0)}
            make(path, maps, {"sparseness": {"lrp": scores}}, gates=[GATE], ids=self.ids)
        return self.exit_code


@pytest.fixture
def book(tmp_path: Path) -> Book:
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    return Book(tmp_path / "schedules")


def keep(book: Book, **fields: Any) -> Schedule:
    schedule = Schedule(config="run.yaml", cron="0 2 * * *", **fields)
    book.add("nightly", schedule)
    return schedule


def started(book: Book, day: int, fake: Fake | None = None, hours: float = 3) -> Audit:
    """What became of the occurrence of a day, started some hours after it was due."""
    now = DUE + day * DAY + timedelta(hours=hours)
    return run_occurrence(book, "nightly", now, start=fake or Fake())


def folders(book: Book) -> list[str]:
    return sorted(path.name for path in (book.project / "runs").iterdir())


def test_an_occurrence_has_the_date_at_which_it_was_due(book: Book) -> None:
    keep(book, timezone="Pacific/Auckland")
    # started three hours late, when the next day has begun in Auckland, at 02:00 UTC + 13 hours
    audit = run_occurrence(book, "nightly", datetime(2026, 11, 1, 12, tzinfo=UTC), start=Fake())
    assert audit.due == "2026-11-01T02:00:00+13:00"
    assert audit.path == str(book.project / "runs" / "2026-11-01")


def test_a_second_start_goes_on_in_the_same_folder(book: Book) -> None:
    keep(book)
    fake = Fake(exit_code=130)
    assert started(book, 0, fake).exit_code == 130
    assert not History(book.state("nightly")).all()[0].is_finished
    fake.exit_code = 0
    assert started(book, 0, fake, hours=20).exit_code == 0
    assert fake.n_starts == 2
    assert folders(book) == ["2026-11-01"]
    assert [each.run_exit_code for each in History(book.state("nightly")).all()] == [0]


def test_the_first_run_has_nothing_to_compare_with_and_says_so(book: Book) -> None:
    keep(book, compare=True)
    audit = started(book, 0)
    assert audit.exit_code == 0
    assert audit.notes == ("nothing to compare with yet: it is the first run of the schedule",)


@pytest.mark.slow
def test_a_broken_gate_against_the_run_before_is_exit_code_4(book: Book) -> None:
    keep(book, compare=True)
    started(book, 0)
    audit = started(book, 1, Fake(shift=-0.2))
    assert audit.exit_code == 4
    assert audit.compared_with == str(book.project / "runs" / "2026-11-01")
    (verdict,) = audit.verdicts
    assert verdict.is_broken
    assert "0.5 became 0.3" in verdict.message
    assert "0 of 1 hold" in (Path(audit.path) / "comparison.html").read_text()
    # as bad as the run before is no worse; an occurrence that is started anew judges again
    assert started(book, 2, Fake(shift=-0.2)).exit_code == 0
    assert started(book, 1).exit_code == 4


@pytest.mark.slow
def test_a_baseline_that_passed_goes_on_being_compared_with(book: Book) -> None:
    keep(book, compare=True, baseline="passed", keep=1)
    started(book, 0)
    for day in (1, 2, 3):
        audit = started(book, day, Fake(shift=-0.2))
        assert audit.exit_code == 4
        assert audit.compared_with.endswith("2026-11-01")
    # those that failed are let go, what they are compared with is not
    assert folders(book) == ["2026-11-01", "2026-11-04"]


@pytest.mark.slow
def test_runs_of_other_samples_are_refused_once(book: Book) -> None:
    keep(book, compare=True)
    started(book, 0)
    with pytest.raises(Exception, match="cannot be compared") as refusal:
        started(book, 1, Fake(ids=range(1, N + 1)))
    assert getattr(refusal.value, "exit_code", None) == 3
    assert History(book.state("nightly")).all()[1].exit_code == 3
    assert started(book, 2, Fake(ids=range(1, N + 1))).exit_code == 0


@pytest.mark.slow
def test_the_last_finished_runs_are_kept(book: Book) -> None:
    keep(book, keep=2)
    for day, code in enumerate((0, 4, 5, 0)):
        audit = started(book, day, Fake(exit_code=code))
    assert audit.removed == (str(book.project / "runs" / "2026-11-02"),)
    assert folders(book) == ["2026-11-03", "2026-11-04"]


@pytest.mark.slow
def test_what_is_unfinished_foreign_live_or_compared_with_is_never_removed(book: Book) -> None:
    keep(book, keep=1, compare=True)
    started(book, 0, Fake(exit_code=130))
    # somebody else's run, with which the schedule only goes on
    Fake()(_config(book, "2026-11-02"), take_over=False)
    started(book, 1)
    # finished, and then another run took its folder
    started(book, 2)
    plan = book.project / "runs" / "2026-11-03" / "plan.json"
    plan.write_text(plan.read_text().replace("d" * 64, "f" * 64))
    started(book, 3)
    live = book.project / "runs" / "2026-11-04"
    mine = lock.acquire(live)
    (book.project / "runs" / "notes").mkdir()
    started(book, 4)
    audit = started(book, 5)
    assert "2026-11-04 is not removed" in audit.notes[0]
    assert audit.compared_with.endswith("2026-11-05")
    kept = [f"2026-11-0{day}" for day in range(1, 7)]
    assert folders(book) == [*kept, "notes"]
    lock.release(live, mine)
    started(book, 6)
    assert folders(book) == [*kept[:3], "2026-11-06", "2026-11-07", "notes"]


def _config(book: Book, name: str) -> RunConfig:
    from pipeline.config import load

    path = book.project / "runs" / name
    return load(book.project / "run.yaml", [f"output.path={path}"])


def test_a_removal_that_was_cut_off_is_finished(book: Book) -> None:
    keep(book, keep=1)
    started(book, 0)
    history = History(book.state("nightly"))
    history.write(replace(history.all()[0], is_removed=True))
    (book.project / "runs" / "2026-11-01" / "run.yaml").unlink()
    audit = started(book, 1)
    assert audit.removed == (str(book.project / "runs" / "2026-11-01"),)
    assert folders(book) == ["2026-11-02"]


def test_an_occurrence_is_refused_while_the_one_before_is_running(book: Book) -> None:
    keep(book)

    class Overlapping(Fake):
        def __call__(self, config: RunConfig, *, take_over: bool) -> int:
            with pytest.raises(RunConflictError, match="still running") as refusal:
                started(book, 1)
            assert refusal.value.exit_code == 3
            assert "2026-11-01T02:00:00+00:00" in refusal.value.what
            with pytest.raises(RunConflictError, match="is being run"):
                book.remove("nightly")
            return super().__call__(config, take_over=take_over)

    assert started(book, 0, Overlapping()).exit_code == 0
    assert started(book, 1).exit_code == 0
    assert folders(book) == ["2026-11-01", "2026-11-02"]


def test_a_run_that_is_refused_is_told_and_tried_again(book: Book) -> None:
    keep(book)

    class Refused(Fake):
        def __call__(self, config: RunConfig, *, take_over: bool) -> int:
            raise PlanError("the weights do not fit")

    with pytest.raises(PlanError):
        started(book, 0, Refused())
    (known,) = History(book.state("nightly")).all()
    assert (known.exit_code, known.is_finished) == (3, False)
    assert started(book, 0).exit_code == 0


def test_a_schedule_is_a_file_that_can_be_read_and_edited(book: Book) -> None:
    keep(book, keep=3, timezone="Europe/Berlin", set=("seed=1",))
    text = book.file("nightly").read_text()
    assert text.splitlines()[:2] == ["config: run.yaml", "cron: 0 2 * * *"]
    book.file("nightly").write_text(text.replace("keep: 3", "keep: 4"))
    assert book.read("nightly").keep == 4
    assert book.names() == ["nightly"]
    assert (book.folder / ".state" / ".gitignore").read_text() == "*\n"
    with pytest.raises(ScheduleError, match="already"):
        keep(book)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kepe: 3", "nightly.yaml:3 kepe: .*did you mean 'keep'"),
        ("keep: 0", "nightly.yaml:3 keep: "),
        ("timezone: Europe/Berln", "nightly.yaml:3 timezone: 'Europe/Berln' is no time zone"),
        ("cron: 0 2 * *", "'cron' is given twice"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place(book: Book, line: str, said: str) -> None:
    keep(book)
    with book.file("nightly").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ScheduleError, match=said):
        book.read("nightly")


@pytest.mark.parametrize(
    ("cron", "zone", "path"),
    [
        ("0 2 * * *", "UTC", "runs/audit"),
        ("0 * * * *", "UTC", "runs/{{ date }}"),
        # twice 02:30 on the day on which clocks go back
        ("30 * * * *", "Europe/Berlin", "runs/{{ date }}T{{ time }}"),
    ],
)
def test_two_occurrences_with_one_folder_are_refused(
    book: Book, cron: str, zone: str, path: str
) -> None:
    said = Schedule(config="run.yaml", cron=cron, timezone=zone, set=(f"output.path={path}",))
    with pytest.raises(ScheduleError, match="has one folder"):
        check(book, "x", said, DUE)
    unique = said.model_copy(update={"set": ("output.path=runs/{{ utc }}",)})
    assert check(book, "x", unique, DUE) == [
        "1 gates are about changes, and are judged with --compare only"
    ]


@pytest.mark.parametrize("name", ["Nightly", "a_b", "../x", "-x", "x" * 53])
def test_names_that_systemd_or_kubernetes_refuse_are_refused(book: Book, name: str) -> None:
    with pytest.raises(ScheduleError, match="is no name"):
        book.add(name, Schedule(config="run.yaml", cron="@daily"))


def test_a_record_that_cannot_be_read_is_named(book: Book) -> None:
    keep(book, keep=1)
    started(book, 0)
    (file,) = (book.state("nightly") / "occurrences").glob("*.json")
    assert json.loads(file.read_text())["path"] == "runs/2026-11-01"
    file.write_text("{")
    with pytest.raises(ScheduleError, match="20261101T0200Z"):
        started(book, 1)
