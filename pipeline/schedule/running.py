"""One occurrence of a schedule: run what is due, compare it with the run before, tidy up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from pipeline import paths
from pipeline.addresses import is_job_server
from pipeline.compare import compare
from pipeline.config import validate
from pipeline.errors import RunConflictError, ScheduleError, StoreError, XpipeError
from pipeline.gates.judging import chosen, judge
from pipeline.gates.verdict import BROKEN
from pipeline.ownership import lock
from pipeline.schedule import baselines, retention
from pipeline.schedule.history import FINISHED, History, Occurrence
from pipeline.store import open_run

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.compare.comparison import Comparison
    from pipeline.config import RunConfig
    from pipeline.events import Callback
    from pipeline.gates.verdict import Verdict
    from pipeline.run import RunSummary
    from pipeline.schedule.book import Book, Schedule

PAGE = "comparison.html"
"""Page in a run's folder about what has changed since the run before."""


class Start(Protocol):
    """What starts a run and waits for its end: here, or as a job on a cluster."""

    def __call__(self, config: RunConfig, *, take_over: bool) -> RunSummary | int:
        """Return what became of the run, or its exit code alone."""


@dataclass(frozen=True)
class Here:
    """Runs in this process."""

    callbacks: tuple[Callback, ...] = ()
    """Told every event."""

    def __call__(self, config: RunConfig, *, take_over: bool) -> RunSummary:
        """Return what became of the run."""
        from pipeline.run import run

        return run(config, callbacks=self.callbacks, take_over=take_over)


@dataclass(frozen=True)
class Audit:
    """What became of an occurrence."""

    schedule: str
    """Its name."""
    due: str
    """When it was due, as ISO 8601."""
    path: str
    """The run's folder."""
    exit_code: int
    """4 if a gate is broken, of the run or of the comparison; else that of the run."""
    run: RunSummary | None = None
    """What became of the run, where it ran here."""
    compared_with: str = ""
    """Folder of the run that it was compared with."""
    comparison: Comparison | None = None
    """What has changed since."""
    verdicts: tuple[Verdict, ...] = ()
    """What became of the relative gates."""
    removed: tuple[str, ...] = ()
    """Runs that are no longer kept."""
    notes: tuple[str, ...] = ()
    """What was not done, and why."""


def due_at(schedule: Schedule, name: str, now: datetime) -> datetime:
    """Return the due time whose occurrence a start at `now` is: the last that has come.

    Raises
    ------
    ScheduleError
        If none has.
    """
    due = schedule.times.latest(now)
    if due is None:
        raise ScheduleError(
            f"schedule {name!r} ({schedule.cron}, {schedule.timezone}) was never due before {now}",
            fix="mend its expression; xpipe schedule next shows what it means",
        )
    return due


def config_at(book: Book, schedule: Schedule, due: datetime) -> RunConfig:
    """Return the run of an occurrence, its folder found from wherever one is.

    Raises
    ------
    ConfigError
        If the run file, at this date, cannot be run.
    """
    config = validate(*book.run_file_at(schedule, due))
    # on a cluster the project may be elsewhere, or not be at all: what is relative is refused there
    path = config.output.path if is_sent(config) else book.located(config.output.path)
    return config.model_copy(update={"output": config.output.model_copy(update={"path": path})})


def is_sent(config: RunConfig) -> bool:
    """Whether a run goes to a cluster's job server."""
    return is_job_server(config.engine.address)


def run_occurrence(
    book: Book, name: str, now: datetime, *, start: Start | None = None, take_over: bool = False
) -> Audit:
    """Run the occurrence of a schedule that is due; go on with it if it has begun already.

    Parameters
    ----------
    book
        Where the schedule is kept.
    name
        The schedule.
    now
        The time; the occurrence is that of the last due time before it.
    start
        Starts the run; in this process if not given.
    take_over
        Whether to take schedule and folder from an owner on another host, which must be dead.

    Raises
    ------
    ScheduleError, ConfigError, PlanError
        If it cannot be run; nothing is written to the run's folder then.
    RunConflictError
        If an occurrence of the schedule is still running.
    IncomparableError
        If the run is done, but samples, targets or metrics are others than in the run before.
    """
    schedule = book.read(name)
    due = due_at(schedule, name, now)
    config = config_at(book, schedule, due)
    state = book.state(name)
    book.ignore_state()
    mine = _acquire(book, name, due, take_over=take_over)
    try:
        work = _Work(book, name, schedule, due, config, History(state))
        return work.run(start or Here(), take_over=take_over)
    finally:
        lock.release(state, mine)


def _acquire(book: Book, name: str, due: datetime, *, take_over: bool) -> lock.Owner:
    """Own the schedule: folders of two occurrences differ, so that no run's lock keeps them apart.

    Raises
    ------
    RunConflictError
        If another occurrence is still running, or may be on another host.
    """
    state = book.state(name)
    try:
        return lock.acquire(state, take_over=take_over)
    except RunConflictError as error:
        unended = [each for each in History(state).all() if each.exit_code is None]
        what = f"that of {unended[-1].due} in {unended[-1].path}" if unended else "one of them"
        raise RunConflictError(
            f"the occurrence of schedule {name!r} due at {due.isoformat()} is not started: {what} "
            f"is still running ({error.what})",
            fix="let it end or stop its run with xpipe stop; if it died on another host, pass "
            "--take-over. Give the schedule more time between two starts if this happens often",
            page="schedule-overlap",
        ) from error


@dataclass(frozen=True)
class _Work:
    """An occurrence, with its schedule owned."""

    book: Book
    name: str
    schedule: Schedule
    due: datetime
    config: RunConfig
    history: History

    def run(self, start: Start, *, take_over: bool) -> Audit:
        before = self._begin()
        try:
            ended = start(self.config, take_over=take_over)
        except XpipeError as error:
            self.history.write(replace(before, exit_code=error.exit_code))
            raise
        run_code = ended if isinstance(ended, int) else ended.exit_code
        known = replace(before, run_exit_code=run_code, exit_code=run_code, digest=self._digest())
        self.history.write(known)
        audit = Audit(
            self.name,
            known.due,
            self.config.output.path,
            run_code,
            run=None if isinstance(ended, int) else ended,
        )
        if run_code not in FINISHED:
            return audit
        audit, known = self._compared(audit, known)
        self.history.write(known)
        removed, notes = retention.tidy(self.book, self.schedule, self.history, known)
        return replace(audit, removed=removed, notes=(*audit.notes, *notes))

    def _begin(self) -> Occurrence:
        """Write down, before anything else is, which folder the occurrence has."""
        present = self.history.at(self.due)
        was_ours = present is not None and present.is_ours and not present.is_removed
        path = self.config.output.path
        is_new = not paths.Folder(path).exists(paths.PLAN)
        mine = Occurrence(
            due=self.due.isoformat(),
            path=self.book.relative(path),
            is_ours=was_ours or is_new,
            digest=present.digest if present is not None else "",
        )
        self.history.write(mine)
        return mine

    def _digest(self) -> str:
        folder = paths.Folder(self.config.output.path)
        if not folder.exists(paths.PLAN):
            return ""
        return open_run(folder.url).plan.digest

    def _compared(self, audit: Audit, known: Occurrence) -> tuple[Audit, Occurrence]:
        """Return both with what a comparison with the baseline says, where one is asked for."""
        if not self.schedule.compare:
            return audit, known
        if not known.digest:
            raise StoreError(
                f"the run ended, but its folder {audit.path} cannot be seen from here",
                fix="give an output.path that both the cluster and this machine see, such as s3://",
            )
        baseline = baselines.of(self.book, self.schedule, self.history, before=self.due)
        if baseline is None:
            note = "nothing to compare with yet: it is the first run of the schedule"
            if self.schedule.baseline == "passed":
                note = "nothing to compare with yet: no run of the schedule before it passed"
            return replace(audit, notes=(*audit.notes, note)), known
        path = self.book.located(baseline.path)
        known = replace(known, compared_with=baseline.path)
        audit = replace(audit, compared_with=path)
        try:
            comparison, verdicts = _judged(path, audit.path)
        except XpipeError as error:
            self.history.write(replace(known, exit_code=error.exit_code))
            raise
        is_broken = any(verdict.is_broken for verdict in verdicts)
        code = BROKEN if is_broken else audit.exit_code
        audit = replace(audit, exit_code=code, comparison=comparison, verdicts=verdicts)
        return audit, replace(known, exit_code=code)


def _judged(previous: str, current: str) -> tuple[Comparison, tuple[Verdict, ...]]:
    """Compare two runs, judge the relative gates of the later, and write the page about it."""
    before, after = open_run(previous), open_run(current)
    comparison = compare(before, after)
    verdicts = judge(chosen(after), before, after)
    folder = paths.Folder(current)
    if folder.is_local:
        from pathlib import Path

        from pipeline.compare.page import build

        build(comparison, before, after, Path(folder.at(PAGE)), verdicts)
    return comparison, verdicts
