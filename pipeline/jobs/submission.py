"""Runs sent to a cluster, and the note that is kept of each so that it is found again."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import environment
from pipeline.config import dump
from pipeline.data.files import is_url
from pipeline.engine.platform import EXCLUDED, PACKAGES, package_root
from pipeline.errors import JobError, PlanError, RunConflictError
from pipeline.interrupts import STOPPING
from pipeline.jobs import parcel
from pipeline.jobs.client import Cluster, connect
from pipeline.paths import PLAN
from pipeline.run_file import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.config import RunConfig

NOTE = "job.json"
RUNS = "runs"
PREFIX = "xpipe-"
STOP_SECONDS = 600
"""How long a run may take to finish its shards in flight when it is stopped; Ray's own 3 seconds
would kill it in the middle of them."""
MAX_STARTS = 1000
"""Jobs of one run on one cluster: names are tried one after the other."""
_ENVIRONMENT = {
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    # by which a run ends with 130 and an event that says so also while it is being planned
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


@dataclass(frozen=True)
class Job:
    """A run that was sent to a cluster."""

    run: str
    """Its name."""
    address: str
    """Of the cluster's job server."""
    submission: str
    """What the cluster calls it."""
    output: str
    """Its folder, as the cluster sees it."""
    submitted: float = 0.0
    """When, in seconds since 1970; for people."""
    kept: str = ""
    """Folder of the note; ``runs/<name>`` of the working directory if not given."""

    @property
    def folder(self) -> Path:
        """Where the note of it is kept here."""
        return Path(self.kept) if self.kept else Path(RUNS, self.run)


def noted(folder: str | Path) -> Job | None:
    """Return the job that a folder stands for, or None if it stands for none.

    Raises
    ------
    JobError
        If the note is damaged.
    """
    if is_url(str(folder)):
        return None
    path = Path(folder, NOTE)
    try:
        return replace(Job(**json.loads(path.read_text(encoding="utf-8"))), kept=str(folder))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise JobError(
            f"{str(path)!r} cannot be read: {error}",
            fix="remove it, and name the job with --address URL and the run's name",
        ) from error


def noted_run(job: Job) -> RunConfig:
    """Return the run of a job as it was sent.

    Raises
    ------
    JobError
        If that is not known here.
    """
    from pipeline.config import validate

    path = job.folder / parcel.RUN_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise JobError(
            f"{str(path)!r} cannot be read: {error.strerror}",
            fix=f"send it again: xpipe run CONFIG --address {job.address}",
        ) from error
    return validate(parse(text, str(path)), path.parent)


def find(address: str, name: str) -> tuple[Cluster, Job]:
    """Return the last job of a run on a cluster.

    Raises
    ------
    JobError
        If there is none, or the cluster cannot be reached.
    EngineError
        If there is no token.
    """
    cluster = connect(address)
    name = Path(name).name.removeprefix(PREFIX)
    last: Job | None = None
    for submission in _submissions(name):
        state = cluster.state(submission)
        if state is None:
            break
        last = Job(name, cluster.address, submission, str(state.metadata.get("run", "")))
    if last is None:
        raise JobError(
            f"{address} has no job of a run {name!r}",
            fix="give the name of the run as its run file has it",
            page="job-is-gone",
        )
    return cluster, last


def submit(
    config: RunConfig, *, take_over: bool = False, also: Sequence[str] = (), kept: str = ""
) -> tuple[Cluster, Job]:
    """Send a run to the job server that ``engine.address`` names, and take a note of it.

    Parameters
    ----------
    config
        The run, as it is to be run.
    take_over
        Whether it may take its folder from an owner that is dead.
    also
        Files and folders that go along: see `parcel.pack`.
    kept
        Folder of the note; ``runs/<name>`` of the working directory if not given.

    Raises
    ------
    PlanError
        If the run cannot be sent as it is.
    RunConflictError
        If a job of this run is live, or another run has the place of its note.
    JobError, EngineError
        If the cluster cannot be reached, or does not take it.
    """
    _refuse_relative(config)
    cluster = connect(config.engine.address)
    job = Job(config.name, cluster.address, "", config.output.path, round(time.time(), 3), kept)
    _refuse_local_run(job)
    job = replace(job, submission=_free(cluster, config.name))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as packed:
        parcel.pack(config, "auto", Path(packed), also)
        cluster.submit(job.submission, **_request(config, packed, take_over=take_over))
    _note(job, config)
    return cluster, job


def _request(config: RunConfig, packed: str, *, take_over: bool) -> Mapping[str, Any]:
    words = ["python", "-m", "cli.main", "run", parcel.RUN_FILE, "--events"]
    if take_over:
        words.append("--take-over")
    return {
        # no shell in between: a stop is to reach the run itself
        "entrypoint": f"exec {shlex.join(words)}",
        "runtime_env": {
            "working_dir": packed,
            "py_modules": [str(package_root() / name) for name in PACKAGES],
            "excludes": list(EXCLUDED),
            "env_vars": _ENVIRONMENT,
        },
        "metadata": {
            "run": config.output.path,
            "name": config.name,
            "digest": config.digest(),
            "version": environment.versions().get("xpipe-xai", ""),
        },
        # the driver waits most of its time; on the head, no lost node takes the run along
        "entrypoint_num_cpus": 0,
    }


def _refuse_relative(config: RunConfig) -> None:
    path = config.output.path
    if not is_url(path) and not Path(path).is_absolute():
        raise PlanError(
            f"{config.where('output', 'path')}: {path!r} would be in a folder of the job that is "
            "removed after it",
            fix="give a folder that every node of the cluster sees: a URL such as s3://bucket/"
            f"{config.name}, or an absolute path (--set output.path=...)",
            page="job-output",
        )


def _refuse_local_run(job: Job) -> None:
    if (job.folder / PLAN).is_file() and job.folder.resolve() != Path(job.output).resolve():
        raise RunConflictError(
            f"{job.folder} holds a run of this machine; the job's note would stand in its way",
            fix="give one of them another name (--set name=...), or move the folder",
            page="job-note",
        )


def _submissions(name: str) -> list[str]:
    later = [f"{PREFIX}{name}-{number}" for number in range(2, MAX_STARTS)]
    return [f"{PREFIX}{name}", *later]


def _free(cluster: Cluster, name: str) -> str:
    """Return the first name that no job has; refuse where the last one is live."""
    for submission in _submissions(name):
        state = cluster.state(submission)
        if state is None:
            return submission
        if state.is_live:
            raise _live(cluster, submission, name, state.status)
    raise JobError(
        f"{cluster.address} has had {MAX_STARTS} jobs of the run {name!r}",
        fix="delete some: ray job delete",
    )


def _live(cluster: Cluster, submission: str, name: str, status: str) -> RunConflictError:
    where = f"--address {cluster.address} {name}"
    is_stopping = STOPPING in cluster.log(submission)
    if is_stopping:
        fix = f"wait for its end, and then send it: xpipe status --watch {where}"
    else:
        fix = (
            f"watch it: xpipe logs --follow {where}; stop it: xpipe stop {where}; or give the run "
            "another name"
        )
    doing = "stopping: it finishes its shards in flight" if is_stopping else status
    return RunConflictError(
        f"the job {submission!r} of the run {name!r} on {cluster.address} is {doing}",
        fix=fix,
        page="job-is-live",
    )


def _note(job: Job, config: RunConfig) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    if not (job.folder / PLAN).is_file():  # else the folder is the run's own
        (job.folder / parcel.RUN_FILE).write_text(dump(config), encoding="utf-8")
    text = json.dumps({**asdict(job), "kept": ""}, indent=2) + "\n"
    (job.folder / NOTE).write_text(text, encoding="utf-8")
