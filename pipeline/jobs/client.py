"""A cluster's job server, spoken to with a token; what goes wrong is one line that says what to do.

Ray's client names neither the address nor the cure in its errors, waits for ever for a host that
does not answer, and talks to a head without authentication as if nothing were amiss.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline import addresses
from pipeline.engine import authentication
from pipeline.errors import JobError, RunConflictError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

PATIENCE = 10.0
"""Seconds for the first answer: a head on another continent needs less than one."""
LIVE = ("pending", "running")
_UNREACHABLE = "cluster-unreachable"
_DASHBOARD = "give the address of the cluster's dashboard, such as http://head:8265"


@dataclass(frozen=True)
class State:
    """What the cluster says of a job."""

    status: str
    """``pending``, ``running``, ``stopped``, ``succeeded`` or ``failed``."""
    exit_code: int | None = None
    """Of the run's process; None while it lives, and if it was stopped."""
    message: str = ""
    """Why it is as it is, in Ray's words."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What was written on it when it was submitted."""

    @property
    def is_live(self) -> bool:
        """Whether it runs or is about to."""
        return self.status in LIVE


class Cluster:
    """The job server of a head; made by `connect`.

    Parameters
    ----------
    address
        ``http://host:port`` of the dashboard.
    client
        Ray's `JobSubmissionClient`.
    """

    def __init__(self, address: str, client: Any) -> None:
        self.address = address
        self._client = client

    def submit(self, submission: str, **job: Any) -> None:
        """Send a job, with the arguments of Ray's ``submit_job``.

        Raises
        ------
        RunConflictError
            If somebody else has just sent one of this name.
        JobError
            If the cluster does not take it.
        """
        try:
            with _told(self.address):
                self._client.submit_job(submission_id=submission, **job)
        except JobError as error:
            if "already exists" not in str(error.__cause__):
                raise
            raise RunConflictError(
                f"{self.address} has got a job {submission!r} at this moment",
                fix=f"watch that one: xpipe logs --address {self.address} "
                f"{submission.removeprefix('xpipe-')}",
                page="job-is-live",
            ) from error

    def state(self, submission: str) -> State | None:
        """Return what the cluster says of a job, or None if it has none of this name."""
        try:
            with _told(self.address):
                found = self._client.get_job_info(submission)
        except JobError as error:
            if "does not exist" in str(error.__cause__):
                return None
            raise
        return State(
            str(found.status.value).lower(),
            getattr(found, "driver_exit_code", None),
            found.message or "",
            dict(found.metadata or {}),
        )

    def log(self, submission: str) -> str:
        """Return all that a job has printed so far."""
        with _told(self.address):
            return str(self._client.get_job_logs(submission))

    def tail(self, submission: str) -> AsyncIterator[str]:
        """Return what a job prints, from its first line to its end, in chunks of any size."""
        chunks: AsyncIterator[str] = self._client.tail_job_logs(submission)
        return chunks

    def stop(self, submission: str) -> bool:
        """Ask a job to end; return whether it was live."""
        with _told(self.address):
            return bool(self._client.stop_job(submission))


def connect(address: str) -> Cluster:
    """Return the job server at an address.

    Raises
    ------
    EngineError
        If there is no token.
    JobError
        If nothing answers there, the token is not the cluster's, the head asks for none, or what
        talks to it is not installed.
    """
    _refuse_malformed(address)
    address = address.rstrip("/")
    secret = authentication.token()
    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("requests") is None:
        raise JobError(
            "jobs need more of Ray than is installed",
            fix="pip install 'xpipe-xai[cluster]'",
            page="missing-extra",
        )
    _refuse_open_head(address)
    from ray.job_submission import JobSubmissionClient

    # Ray tells of every package that it uploads, in the middle of our own lines; some of its
    # modules set their own level, so that its handlers are what has to be told
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(max(handler.level, logging.WARNING))
    with _told(address):
        # given by hand: Ray would take it from the environment as that was when it was imported
        headers = {"Authorization": f"Bearer {secret}"}
        client = JobSubmissionClient(address, headers=headers)
        client.list_jobs()
    return Cluster(address, client)


def _refuse_malformed(address: str) -> None:
    reason = f"got the address {address!r}, expected 'http://host:port'"
    try:
        if addresses.is_job_server(addresses.without_user(address)):
            addresses.checked(address)
            return
    except addresses.UserInAddressError as error:
        reason = str(error)
    except ValueError:
        pass
    raise JobError(reason, fix=_DASHBOARD)


def _refuse_open_head(address: str) -> None:
    """Ask without a token, which has to be refused: an open head takes code from everybody."""
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=PATIENCE):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
        raise JobError(
            f"{address} answers {error.code} {error.reason}, which no job server does",
            fix=_DASHBOARD,
            page=_UNREACHABLE,
        ) from error
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error
    raise JobError(
        f"the cluster at {address} asks for no token: anybody who reaches it can run code on it",
        fix="start it with RAY_AUTH_MODE=token and a token; xpipe sends nothing to it as it is",
        page="cluster-without-authentication",
    )


def _unreachable(address: str, error: Exception) -> JobError:
    reason = getattr(error, "reason", None) or error
    return JobError(
        f"no cluster answers at {address}: {str(reason).splitlines()[0] if str(reason) else ''}",
        fix="see that the cluster runs, that the address is that of its dashboard (port 8265), "
        "and that this host may reach it (kubectl port-forward, ssh -L)",
        page=_UNREACHABLE,
    )


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into errors that name address and cure."""
    import requests
    from ray import exceptions

    refused: Any = getattr(exceptions, "AuthenticationError", ())
    try:
        yield
    except refused as error:
        raise JobError(
            f"the cluster at {address} does not take the token",
            fix=authentication.FIX,
            page=authentication.PAGE,
        ) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise _unreachable(address, error) from error
    except (RuntimeError, ValueError) as error:
        raise JobError(
            f"the cluster at {address} says: {_first_line(str(error))}",
            fix="`ray job list --address` and the log of its dashboard may say more",
        ) from error


def _first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if re.search(r"\w", line)]
    # of a traceback the last line is what happened
    return (lines[-1] if lines and "Traceback" in text else lines[0] if lines else "").strip()
