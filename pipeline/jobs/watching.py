"""A run on a cluster seen from here, in the terms in which local runs are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError
from pipeline.jobs.client import Cluster, connect
from pipeline.jobs.folding import in_words, progress
from pipeline.jobs.following import event_in, follow
from pipeline.jobs.submission import Job, find, noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OUTPUT = "output"
"""Kind of a line that is no event: what the run's process, or Ray, has printed."""


def job_of(run: str, address: str | None = None) -> tuple[Cluster, Job] | None:
    """Return the job that a name or a folder stands for, or None if that is a local run.

    Parameters
    ----------
    run
        Folder of a run, or with `address` the name of one.
    address
        Of a job server.

    Raises
    ------
    JobError, EngineError
        If the cluster cannot be reached, or has no such job.
    """
    if address is not None:
        return find(address, run)
    job = noted(run)
    return None if job is None else (connect(job.address), job)


def state(cluster: Cluster, job: Job) -> dict[str, Any]:
    """Return how far a job is, as `pipeline.runs.state` does of a local run.

    Beside its keys there are ``job``, ``address`` and ``output``; ``failures`` is empty, as the
    samples that failed are named in the run's own folder alone.

    Raises
    ------
    JobError
        If the cluster has forgotten the job.
    """
    said = cluster.state(job.submission)
    if said is None:
        raise _forgotten(cluster, job)
    text = cluster.log(job.submission)
    records = [each for each in map(event_in, text.splitlines()) if each is not None]
    return {
        **progress(records),
        "path": str(job.folder),
        "state": in_words(said, records),
        "is_live": said.is_live,
        "owner": None,
        "failures": [],
        "job": job.submission,
        "address": cluster.address,
        "output": job.output,
    }


def events(cluster: Cluster, job: Job, *, follow_on: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what happened in a job, oldest first; other lines as events of the kind `OUTPUT`.

    Raises
    ------
    JobError
        If the cluster has forgotten the job, or cannot be reached any more.
    """
    if cluster.state(job.submission) is None:
        raise _forgotten(cluster, job)
    lines: Iterable[str | None]
    lines = (
        follow(cluster, job.submission) if follow_on else cluster.log(job.submission).split("\n")
    )
    for line in lines:
        if line and line.strip():
            yield event_in(line) or {"event": OUTPUT, "text": line}


def stop_job(cluster: Cluster, job: Job, *, now: bool = False) -> None:
    """Ask a job to finish its shards in flight and to end.

    Raises
    ------
    JobError
        If it has ended, or is to stop at once: Ray passes on one signal, and no second one.
    """
    if now:
        raise JobError(
            f"the job {job.submission!r} cannot be stopped at once: Ray tells a job to stop only "
            "once",
            fix=f"xpipe stop {job.folder}; Ray kills it if that takes too long "
            "(RAY_JOB_STOP_WAIT_TIME_S)",
        )
    if not cluster.stop(job.submission):
        raise JobError(
            f"the job {job.submission!r} has ended already",
            fix=f"xpipe status {job.folder} shows what became of it",
            page="not-running",
        )


def _forgotten(cluster: Cluster, job: Job) -> JobError:
    return JobError(
        f"{cluster.address} has no job {job.submission!r}: the cluster has been started anew, or "
        "the job was deleted",
        fix=f"what is done lies in {job.output}; go on with xpipe resume {job.folder}",
        page="job-is-gone",
    )
