"""Who owns a run's folder: one live driver at a time, each start a new epoch."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RunConflictError
from pipeline.ownership import claims
from pipeline.ownership.owner import Owner
from pipeline.paths import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

__all__ = ["GUARD", "OWNER", "Owner", "acquire", "owner", "refuse_if_owned", "release"]

OWNER = "owner.json"
GUARD = ".owner.lock"


def owner(path: str | os.PathLike[str]) -> Owner | None:
    """Return who last owned a run's folder, or None if nobody ever did."""
    folder = Folder(path)
    if not folder.is_local:
        return claims.current(folder)
    try:
        return Owner.parse(folder.read(OWNER))
    except FileNotFoundError:
        return None


def acquire(path: str | os.PathLike[str], *, take_over: bool = False) -> Owner:
    """Make this process the owner of a run's folder.

    Parameters
    ----------
    path
        The folder; created if it is not there.
    take_over
        Whether to take it from an owner on another host, which cannot be seen from here; in an
        object store, without watching whether its heart beats.

    Raises
    ------
    RunConflictError
        If the owner lives, or may live on another host.
    """
    folder = Folder(path)
    if not folder.is_local:
        present = claims.current(folder)
        if present is not None:
            _refuse_if_alive(present, folder, take_over=True)
            if present.is_alive is None and not take_over:
                claims.refuse_if_beating(folder, present)
        return claims.acquire(folder, present)
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    with _guard(folder):
        present = owner(path)
        if present is not None:
            _refuse_if_alive(present, folder, take_over=take_over)
        mine = Owner.of_this_process(1 if present is None else present.epoch + 1)
        _write(folder, mine)
    return mine


def refuse_if_owned(path: str | os.PathLike[str], *, take_over: bool = False) -> None:
    """Refuse early, before anything is planned, what `acquire` would refuse.

    In an object store, owners on other hosts are left to `acquire`, which takes its time.

    Raises
    ------
    RunConflictError
        If the owner lives, or may live on another host.
    """
    folder, present = Folder(path), owner(path)
    if present is not None:
        _refuse_if_alive(present, folder, take_over=take_over or not folder.is_local)


def release(path: str | os.PathLike[str], mine: Owner) -> None:
    """Give the folder back, unless somebody has taken it over meanwhile."""
    folder = Folder(path)
    if not folder.is_local:
        claims.release(folder, mine)
        return
    with _guard(folder):
        if owner(path) == mine:
            _give_back(folder, replace(mine, is_released=True))


def _give_back(folder: Folder, value: Owner) -> None:
    try:
        try:
            _write(folder, value)
        except OSError:
            # on a full disk there is room for what is there already, and this is shorter
            with open(folder.at(OWNER), "r+b") as file:
                file.write(value.encode())
                file.truncate()
    except OSError as error:
        # it would hide what ended the run; who is dead needs not have given anything back
        logger.warning("%s could not be given back: %s", folder.url, error)


def _refuse_if_alive(present: Owner, folder: Folder, *, take_over: bool) -> None:
    if present.is_alive:
        raise RunConflictError(
            f"{folder.url} is being run by process {present.pid} on this host ({present.host})",
            fix=f"wait for it, stop it with `xpipe stop {folder.url}`, or give another output path",
            page="folder-in-use",
        )
    if present.is_alive is None and not take_over:
        raise RunConflictError(
            f"{folder.url} was last run by process {present.pid} on {present.host!r}, which did "
            f"not give it back and cannot be seen from {socket.gethostname()!r}",
            fix="make sure that it has ended there, then pass --take-over",
            page="owner-elsewhere",
        )


def _write(folder: Folder, value: Owner) -> None:
    # nothing is synced: that would take a moment, and a machine that crashed has no live owners
    temporary = Path(folder.at(f".{OWNER}.{os.getpid()}"))
    try:
        temporary.write_bytes(value.encode())
        temporary.replace(folder.at(OWNER))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _guard(folder: Folder) -> Iterator[None]:
    """Keep two starts from judging the same dead owner at once."""
    with open(folder.at(GUARD), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
