"""Who owns a run's folder: one live driver at a time, each start a new epoch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.errors import RunConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNER = "owner.json"
GUARD = ".owner.lock"


@dataclass(frozen=True)
class Owner:
    """A driver that works, or worked, on a run's folder."""

    pid: int
    """Its process."""
    process_started: float
    """When that process started, by the operating system; tells a reused number from the owner."""
    host: str
    """Where it runs."""
    epoch: int
    """How often the run has been started, this time included."""
    is_released: bool = False
    """Whether it ended by itself."""

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool | None:
        """Whether it still works on the folder; None where this host cannot tell."""
        if self.is_released:
            return False
        if not self.is_here:
            return None
        try:
            process = psutil.Process(self.pid)
            # psutil derives the time from clock ticks, a hundredth of a second each
            is_same = abs(process.create_time() - self.process_started) < 0.1
            return is_same and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def owner(path: str | Path) -> Owner | None:
    """Return who last owned a run's folder, or None if nobody ever did."""
    try:
        text = (Path(path) / OWNER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return Owner(**json.loads(text))


def acquire(path: str | Path, *, take_over: bool = False) -> Owner:
    """Make this process the owner of a run's folder.

    Parameters
    ----------
    path
        The folder; created if it is not there.
    take_over
        Whether to take it from an owner on another host, which cannot be seen from here.

    Raises
    ------
    RunConflictError
        If the owner lives, or may live on another host.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with _guard(folder):
        present = owner(folder)
        if present is not None:
            _refuse_if_alive(present, folder, take_over=take_over)
        mine = Owner(
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            host=socket.gethostname(),
            epoch=1 if present is None else present.epoch + 1,
        )
        _write(folder, mine)
    return mine


def refuse_if_owned(path: str | Path, *, take_over: bool = False) -> None:
    """Refuse early, before anything is planned, what `acquire` would refuse.

    Raises
    ------
    RunConflictError
        If the owner lives, or may live on another host.
    """
    present = owner(path)
    if present is not None:
        _refuse_if_alive(present, Path(path), take_over=take_over)


def release(path: str | Path, mine: Owner) -> None:
    """Give the folder back, unless somebody has taken it over meanwhile."""
    folder = Path(path)
    with _guard(folder):
        if owner(folder) == mine:
            _write(folder, replace(mine, is_released=True))


def _refuse_if_alive(present: Owner, folder: Path, *, take_over: bool) -> None:
    if present.is_alive:
        raise RunConflictError(
            f"{folder} is being run by process {present.pid} on this host ({present.host})",
            fix=f"wait for it, stop it with `xpipe stop {folder}`, or give another output path",
        )
    if present.is_alive is None and not take_over:
        raise RunConflictError(
            f"{folder} was last run by process {present.pid} on {present.host!r}, which did not "
            f"give it back and cannot be seen from {socket.gethostname()!r}",
            fix="make sure that it has ended there, then pass --take-over",
        )


def _write(folder: Path, value: Owner) -> None:
    temporary = folder / f".{OWNER}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(value)) + "\n", encoding="utf-8")
    temporary.replace(folder / OWNER)


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Keep two starts from judging the same dead owner at once."""
    with (folder / GUARD).open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
