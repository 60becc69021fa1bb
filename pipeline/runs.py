"""Runs seen from outside: which there are, how far they are, and how to stop one."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pipeline import paths, told
from pipeline.errors import RunConflictError, StoreError
from pipeline.ownership.heart import ask_to_stop
from pipeline.ownership.lock import Owner, owner
from pipeline.urls import located

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.events import Callback
    from pipeline.run import RunSummary
    from pipeline.verify import Problem

DEPTH = 4
"""Folders below the one that is searched; a run is never inside a run."""
_BETWEEN_SIGNALS = 0.2
"""Seconds; two at once would be seen as one."""
_ENDS = ("run_started", "run_finished")
_ENDINGS = {
    0: "done",
    4: "gate broken",
    5: "done with failures",
    130: "interrupted",
    143: "interrupted",
}


def find(path: str | PurePath) -> list[PurePath]:
    """Return the folders of runs at or below a path or URL, sorted.

    Raises
    ------
    StoreError
        If an object store does not answer.
    """
    place = located(path)
    if isinstance(place, Path):
        return sorted(_find(place, DEPTH))
    folder = paths.Folder(place)
    return sorted(place / name if name else place for name in _find_objects(folder, "", DEPTH))


def _find(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / paths.PLAN).is_file():
        yield folder
    elif depth and folder.is_dir():
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _find(inner, depth - 1)


def _find_objects(folder: paths.Folder, under: str, depth: int) -> Iterator[str]:
    """Yield names of runs in an object store: one request per folder, none inside a run."""
    files, folders = folder.listed(under)
    if paths.PLAN in files:
        yield under
    elif depth:
        for inner in folders:
            if not inner.startswith("."):
                yield from _find_objects(folder, f"{under}/{inner}".lstrip("/"), depth - 1)


def stop(path: str | PurePath, *, now: bool = False) -> Owner:
    """Ask the owner of a run to stop: here by the signal of Ctrl-C, twice if it is to be at once.

    An owner on another host is left a request in the run's folder, which it finds within seconds.

    Raises
    ------
    StoreError
        If nobody works on the run, or the folder cannot be written.
    """
    present = owner(path)
    if present is None or not present.may_work:
        raise StoreError(
            f"nobody works on {path}", fix="xpipe status shows what is done", page="not-running"
        )
    if not present.is_here:
        ask_to_stop(path, present, now=now)
        return present
    os.kill(present.pid, signal.SIGINT)
    if now:
        time.sleep(_BETWEEN_SIGNALS)
        if present.is_alive:
            os.kill(present.pid, signal.SIGINT)
    return present


def repair(
    path: str | PurePath, *, callbacks: Sequence[Callback] = ()
) -> tuple[list[Problem], RunSummary | None]:
    """Take back what does not match its record, and compute it again.

    Returns
    -------
    tuple
        What was wrong, and what became of the run that was resumed; None if nothing was wrong.

    Raises
    ------
    RunConflictError
        If somebody works on the run.
    """
    from pipeline.run import resume
    from pipeline.verify import verify

    present = owner(path)
    if present is not None and present.is_alive:
        raise RunConflictError(
            f"process {present.pid} works on {path}, whose records are not to change meanwhile",
            fix=f"wait for it, or stop it with xpipe stop {path}",
            page="folder-in-use",
        )
    problems = verify(path, repair=True)
    if all(problem.is_note for problem in problems):
        return problems, None
    return problems, resume(path, callbacks=callbacks)


def state(path: str | PurePath) -> dict[str, Any]:
    """Return how far a run is, as plain values.

    Returns
    -------
    dict
        ``path``, ``state`` (running, running elsewhere, done, done with failures,
        interrupted, failed, killed, not started), ``is_live`` (whether somebody works on it, or
        may, from a host that this one cannot see), ``owner`` (also one that has ended),
        ``n_samples``, ``n_failed``, ``passes`` (a row each), ``failures`` (sample and reason) and
        ``not_finite`` (explainer to the number of samples whose maps are).

    Raises
    ------
    StoreError
        If there is no run.
    """
    from pipeline.store import open_run

    folder = _checked(path)
    run = open_run(folder)
    passes = [
        {
            "pass": name,
            "shards": tally["total"],
            **{key: tally[key] for key in ("done", "samples", "failed", "seconds")},
        }
        for name, tally in run.progress().items()
    ]
    failures = [{"sample": sample, "reason": reason} for sample, reason in run.failures()]
    present = owner(folder)
    return {
        "path": str(folder),
        "state": _state(present, folder),
        "is_live": present is not None and present.may_work,
        "owner": None if present is None else asdict(present),
        "n_samples": run.plan.n_samples,
        "n_failed": len(failures),
        "digest": run.plan.digest,
        "passes": passes,
        "failures": failures,
        "not_finite": run.not_finite(),
    }


def _checked(path: str | PurePath) -> PurePath:
    place = located(path)
    if not paths.Folder(place).exists(paths.PLAN):
        raise StoreError(
            f"{place} holds no run: it has no {paths.PLAN}",
            fix="name a run's folder; xpipe list shows those below the working directory's runs/",
            page="no-run-here",
        )
    return place


def _state(present: Owner | None, folder: PurePath) -> str:
    if present is None:
        return "not started"
    if present.may_work:
        return "running elsewhere" if present.is_alive is None else "running"
    ended = [event for event in events(folder) if event.get("event") in _ENDS]
    if not present.is_released or not ended or ended[-1]["event"] != "run_finished":
        return "killed"
    return _ENDINGS.get(ended[-1]["exit_code"], "failed")


def events(path: str | PurePath, *, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what happened in a run, oldest first.

    Parameters
    ----------
    path
        The run's folder.
    follow
        Whether to wait for more while somebody works on the run.

    Raises
    ------
    StoreError
        If there is no run.
    """
    yield from told.events(paths.Folder(_checked(path)), follow=follow)
