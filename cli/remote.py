"""Runs that go to a cluster as a job: sent, shown as if they ran here, asked to stop."""

import re
import time
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import output
from pipeline.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.config import RunConfig
    from pipeline.jobs.client import Cluster
    from pipeline.jobs.submission import Job
    from pipeline.run import RunSummary

SETTLING = 10.0
"""Seconds that Ray gets to take note that a process is gone whose log has ended."""

_CHATTER = re.compile(r"Running entrypoint for job|[-\d]+ [:,\d]+\s+INFO \w+\.py:\d+ -- ")
"""What Ray says in a job's log when all is well."""

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Where to run: http://head:8265 sends a job, host:port or auto joins a cluster.",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Do not wait for a job: it is sent, and left alone.")
]
Ship = Annotated[
    list[str] | None,
    typer.Option(
        "--ship", metavar="PATH", help="A file beside the run file that a job needs; repeatable."
    ),
]


class _Asked(Interrupts):
    """Counts signals: the first is passed on to the job, the second leaves it alone."""

    n = 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        self.n += 1


def submit(
    config: "RunConfig",
    *,
    take_over: bool,
    detach: bool,
    as_json: bool,
    also: "Sequence[str]" = (),
    kept: str = "",
) -> "tuple[RunSummary | None, int]":
    """Send a run, and follow it unless it is to be left alone.

    Returns
    -------
    tuple
        What became of the run, None where it has not told, and its exit code.
    """
    from pipeline.jobs import submission

    cluster, job = submission.submit(config, take_over=take_over, also=also, kept=kept)
    if detach:
        if as_json:
            output.as_json(asdict(job))
        else:
            output.line(f"{job.submission} was sent to {cluster.address}")
        output.note(
            f"watch it: xpipe status {job.folder} --watch; stop it: xpipe stop {job.folder}"
        )
        return None, 0
    output.note(f"{job.submission} was sent to {cluster.address}; Ctrl-C asks it to stop")
    return attach(cluster, job)


def attach(cluster: "Cluster", job: "Job") -> "tuple[RunSummary | None, int]":
    """Show a job until it ends, as if it ran here."""
    from cli.progress import Reporter
    from pipeline.jobs.folding import SUMMARY, event_of, summary_of
    from pipeline.jobs.following import event_in, follow

    records: list[dict[str, Any]] = []
    summary: RunSummary | None = None
    is_asked = False
    with Reporter() as reporter, _Asked() as asked:
        for line in follow(cluster, job.submission):
            if asked.n > 1:
                reporter.say(f"left alone; the job goes on: xpipe status {job.folder}")
                return None, asked.exit_code
            if asked.n and not is_asked:
                is_asked = True
                cluster.stop(job.submission)
                reporter.say("the job was asked to stop; once more leaves it alone")
            record = event_in(line or "")
            if record is None:
                _pass_on(reporter.say, line)
            elif record["event"] == SUMMARY:
                summary = summary_of(record)
            else:
                records.append(record)
                event = event_of(record)
                if event is not None:
                    reporter(event)
    return summary, _exit_code(cluster, job, records)


def _pass_on(say: Any, line: str | None) -> None:
    """Show what the job, or Ray, has printed beside its events."""
    if line and line.strip() and not _CHATTER.match(line):
        say(line.rstrip())


def _exit_code(cluster: "Cluster", job: "Job", records: "list[dict[str, Any]]") -> int:
    from pipeline.errors import JobError
    from pipeline.jobs.folding import exit_code

    until = time.monotonic() + SETTLING
    while True:
        state = cluster.state(job.submission)
        if state is None:
            raise JobError(
                f"{cluster.address} has forgotten the job {job.submission!r}",
                fix=f"what is done lies in {job.output}; go on with xpipe resume {job.folder}",
                page="job-is-gone",
            )
        if not state.is_live:
            return exit_code(state, records)
        if time.monotonic() > until:
            raise JobError(
                f"the log of {job.submission!r} has ended, but the job is {state.status}",
                fix=f"look again: xpipe status {job.folder}",
            )
        time.sleep(0.2)


def refuse_local_only(address: str, *, detach: bool, also: "Sequence[str] | None") -> None:
    """Refuse options of jobs for a run that is none."""
    if detach or also:
        from pipeline.errors import ConfigError

        name = "--detach" if detach else "--ship"
        raise ConfigError(
            f"{name} is for jobs, and engine.address is {address!r}",
            fix="add --address http://head:8265",
        )
