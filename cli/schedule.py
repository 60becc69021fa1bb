"""Commands about runs at due times: schedule add, list, remove, next, export, run."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import compare, output, verdicts
from cli.options import AsJson, Overrides
from pipeline.quantities import duration

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.run import RunSummary
    from pipeline.schedule import Audit, Book

app = typer.Typer(
    name="schedule",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Run at due times: the system's scheduler starts what `schedule export` writes for it.",
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the schedule.", show_default=False)
]
In = Annotated[
    Path,
    typer.Option(
        "--in",
        metavar="FOLDER",
        help="Folder of the schedules; the project, in which runs are started, is that above it.",
    ),
]
HERE = Path("schedules")


class Scheduler(StrEnum):
    """Who can start runs."""

    cron = "cron"
    systemd = "systemd"
    kubernetes = "kubernetes"


class Baseline(StrEnum):
    """What a run is compared with."""

    previous = "previous"
    passed = "passed"


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A run file.", show_default=False)]
Cron = Annotated[
    str,
    typer.Option(
        "--cron",
        metavar="EXPRESSION",
        help="Minute, hour, day of month, month, day of week; or @daily and the like.",
    ),
]
Timezone = Annotated[
    str, typer.Option("--timezone", metavar="ZONE", help="Zone in which it is meant.")
]
Keep = Annotated[
    int | None,
    typer.Option("--keep", min=1, metavar="N", help="Keep the last N finished runs only."),
]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="Compare each run with the one before; judge its gates."),
]
AgainstWhich = Annotated[
    Baseline,
    typer.Option(
        "--baseline",
        metavar="WHICH",
        help="Compare with the `previous` finished run, or with the last that `passed`.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="Submit runs to this cluster, as `xpipe run` does."
    ),
]
As = Annotated[
    Scheduler, typer.Option("--as", metavar="SCHEDULER", help="cron, systemd or kubernetes.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="Write files there, in place of printing them."
    ),
]
Image = Annotated[
    str | None,
    typer.Option("--image", metavar="IMAGE", help="Container with xpipe (kubernetes)."),
]
Claim = Annotated[
    str | None,
    typer.Option(
        "--claim", metavar="NAME", help="Volume claim that holds the project (kubernetes)."
    ),
]


@app.command("add")
def add(
    name: Name,
    config: Config,
    cron: Cron,
    timezone: Timezone = "UTC",
    overrides: Overrides = None,
    keep: Keep = None,
    is_compared: Compare = False,
    baseline: AgainstWhich = Baseline.previous,
    address: Address = None,
    folder: In = HERE,
    as_json: AsJson = False,
) -> None:
    """Keep a schedule in a file; `schedule export` then gives it to the system's scheduler.

    Two runs need two folders: the run file's output.path has a {{ date }}, or is given one.

    Example:  xpipe schedule add nightly run.yaml --cron @daily -s output.path=runs/{{date}}
    """
    from pipeline.schedule import Book, Schedule
    from pipeline.schedule.checking import check

    book = Book(folder)
    schedule = Schedule(
        config=book.relative(str(config.absolute())),
        cron=cron,
        timezone=timezone,
        set=tuple(overrides or ()),
        keep=keep,
        compare=is_compared,
        baseline=baseline.value,
        address=address,
    )
    notes = check(book, name, schedule, datetime.now(UTC))
    path = book.add(name, schedule)
    if as_json:
        output.as_json({"name": name, "file": path} | schedule.model_dump())
    else:
        output.line(str(path))
    for text in notes:
        output.note(text)
    output.note(f"next: xpipe schedule export {name} --as cron, systemd or kubernetes")


@app.command("list")
def list_schedules(folder: In = HERE, as_json: AsJson = False) -> None:
    """List the schedules with their next and last occurrences.

    Example:  xpipe schedule list
    """
    from pipeline.schedule import Book

    book = Book(folder)
    rows = [_row(book, name, datetime.now(UTC)) for name in book.names()]
    if as_json:
        output.as_json(rows)
    elif rows:
        output.table(rows, ("schedule", "cron", "timezone", "next", "last", "exit code", "run"))
    else:
        output.note(f"no schedule in {folder}")


def _row(book: "Book", name: str, now: datetime) -> dict[str, Any]:
    from pipeline.errors import ScheduleError
    from pipeline.schedule.history import History

    try:
        schedule = book.read(name)
        found = History(book.state(name)).all()
    except ScheduleError as error:  # whatever is wrong with one, the others are listed
        output.note(str(error))
        return {"schedule": name, "cron": "unreadable"}
    due = next(schedule.times.after(now), None)
    last = found[-1] if found else None
    return {
        "schedule": name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "next": None if due is None else due.isoformat(),
        "last": None if last is None else last.due,
        "exit code": None if last is None else last.exit_code,
        "run": None if last is None else last.path,
    }


@app.command("remove")
def remove(name: Name, folder: In = HERE, as_json: AsJson = False) -> None:
    """Forget a schedule; its runs stay, and so does its entry in the system's scheduler.

    Example:  xpipe schedule remove nightly
    """
    from pipeline.schedule import Book

    Book(folder).remove(name)
    if as_json:
        output.as_json({"removed": name})
    else:
        output.line(f"{name} is removed; its runs are left as they are")
    output.note("what was exported to cron, systemd or Kubernetes is to be removed there")


@app.command("next")
def next_times(
    name: Name,
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many.")] = 5,
    folder: In = HERE,
    as_json: AsJson = False,
) -> None:
    """Print when a schedule is due next, in its zone.

    Example:  xpipe schedule next nightly -n 3
    """
    from itertools import islice

    from pipeline.schedule import Book

    dues = islice(Book(folder).read(name).times.after(datetime.now(UTC)), n)
    lines = [due.isoformat() for due in dues]
    if as_json:
        output.as_json(lines)
        return
    for line in lines:
        output.line(line)


@app.command("export")
def export(
    name: Name,
    scheduler: As,
    out: Out = None,
    image: Image = None,
    claim: Claim = None,
    folder: In = HERE,
) -> None:
    """Write what starts a schedule: lines of a crontab, systemd units, or a Kubernetes CronJob.

    Exits with 3 if that scheduler cannot say exactly when the schedule is due.

    Example:  xpipe schedule export nightly --as systemd --out ~/.config/systemd/user
    """
    from pipeline.schedule import Book

    files = _exported(Book(folder), name, scheduler, image, claim)
    for file, text in files.items():
        if out is None:
            if len(files) > 1:
                output.line(f"# {file}")
            output.line(text.rstrip("\n"))
        else:
            out.mkdir(parents=True, exist_ok=True)
            (out / file).write_text(text, encoding="utf-8")
            output.line(str(out / file))
    hints = {
        Scheduler.cron: "add these lines with crontab -e",
        Scheduler.systemd: "then: systemctl --user daemon-reload, and systemctl --user enable "
        f"--now xpipe-{name}.timer",
        Scheduler.kubernetes: "then: kubectl apply -f it",
    }
    output.note(hints[scheduler])


def _exported(
    book: "Book", name: str, scheduler: Scheduler, image: str | None, claim: str | None
) -> dict[str, str]:
    """Return the texts by the names of their files."""
    from pipeline.errors import ScheduleError
    from pipeline.schedule.export import crontab, entry_of, kubernetes, systemd

    entry = entry_of(book, name)
    if scheduler is Scheduler.systemd:
        return systemd.units(entry)
    if scheduler is Scheduler.cron:
        return {f"{name}.crontab": crontab.text(entry)}
    if image is None or claim is None:
        raise ScheduleError(
            "a CronJob needs a container image with xpipe and a volume claim with the project",
            fix="add --image registry/xpipe:1 --claim project",
        )
    return {f"{name}.yaml": kubernetes.text(entry, image=image, claim=claim)}


@app.command("run")
def run(
    name: Name,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Run the occurrence that was due then, in the schedule's zone if none is given: "
            "2026-11-23T02:00.",
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Take schedule and folder from an owner elsewhere that is dead."
        ),
    ] = False,
    junit: verdicts.JUnit = None,
    folder: In = HERE,
    as_json: AsJson = False,
) -> None:
    """Run the occurrence that is due: what the system's scheduler calls, and nobody has to.

    It is that of the last due time; if it was begun before, it goes on in its folder. Exits as
    `xpipe run`, with 4 also if a gate against the run before is broken, and with 3 if an
    occurrence is still running.

    Example:  xpipe schedule run nightly
    """
    from cli.progress import Reporter
    from pipeline.schedule import Book, run_occurrence

    book = Book(folder)
    now = datetime.now(UTC) if at is None else _moment(book, name, at)
    with verdicts.told_if_refused(junit, name), Reporter() as reporter:
        start = _Anywhere(reporter, str(book.state(name) / "job"), as_json)
        audit = run_occurrence(book, name, now, start=start, take_over=take_over)
    gates = (*(audit.run.gates if audit.run else ()), *audit.verdicts)
    verdicts.write(junit, f"{name} {audit.due}", gates)
    _tell(audit, gates, as_json=as_json)
    raise typer.Exit(audit.exit_code)


@dataclass(frozen=True)
class _Anywhere:
    """Starts a run here, or as a job where its engine's address is that of a job server."""

    reporter: Any
    note: str
    as_json: bool

    def __call__(self, config: "RunConfig", *, take_over: bool) -> "RunSummary | int":
        from pipeline.schedule.running import Here, is_sent

        if not is_sent(config):
            return Here((self.reporter,))(config, take_over=take_over)
        from cli import remote

        summary, code = remote.submit(
            config, take_over=take_over, detach=False, as_json=self.as_json, kept=self.note
        )
        return code if summary is None or summary.exit_code != code else summary


def _moment(book: "Book", name: str, text: str) -> datetime:
    from pipeline.errors import ScheduleError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ScheduleError(
            f"--at {text!r} is no time: {error}", fix="write for example --at 2026-11-23T02:00"
        ) from error
    if moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=book.read(name).times.zone)


def _tell(audit: "Audit", gates: Any, *, as_json: bool) -> None:
    if as_json:
        output.as_json(asdict(audit))
    else:
        output.line(f"{audit.schedule}: due {audit.due}, exit code {audit.exit_code}")
        summary = audit.run
        if summary is None:
            output.line(f"run: {audit.path}")
        else:
            n_explained = summary.n_done - summary.n_failed
            output.line(
                f"run: {audit.path}: {n_explained} of {summary.n_samples} samples in "
                f"{duration(summary.seconds)}"
            )
        if audit.comparison is not None:
            output.line(f"compared with: {audit.compared_with}")
            compare.show(audit.comparison)
        for path in audit.removed:
            output.line(f"removed: {path}")
    if audit.run is not None and (audit.run.n_failed or audit.run.quarantined):
        output.note(f"{audit.run.n_failed} samples failed; xpipe status {audit.path} names them")
        output.see("failed-samples")
    for text in (*(audit.run.notes if audit.run else ()), *audit.notes):
        output.note(text)
    verdicts.tell(gates)
    if audit.exit_code in (130, 143):
        output.note(f"interrupted; xpipe schedule run {audit.schedule} --at {audit.due} goes on")
