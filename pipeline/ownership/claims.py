"""Ownership of a run in an object store, where no file can be locked.

Each start creates ``owners/<epoch>.json``, which of all that try one can; the highest epoch is the
owner. While it works it counts in ``owners/<epoch>.beat``. Who cannot see its process watches that
count: clocks of two machines are never compared, only one count with itself a while later. An owner
that was taken for dead and is not finds a higher epoch at its next beat, and stops. What it commits
until then is no harm: of each shard the first record stands, and all write the same.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.errors import RunConflictError, StoreError
from pipeline.ownership.owner import Owner

if TYPE_CHECKING:
    from pipeline.paths import Folder

logger = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two beats."""
WINDOW = 60.0
"""Seconds without a beat after which an owner counts as dead: what a store that throttles delays a
write by, and more."""


def current(folder: Folder) -> Owner | None:
    """Return who owns a folder, or did so last; None if nobody ever did."""
    epochs = _epochs(folder)
    return Owner.parse(folder.read(_path(epochs[-1]))) if epochs else None


def acquire(folder: Folder, present: Owner | None) -> Owner:
    """Claim the epoch after that of the owner there is, who must be dead.

    Raises
    ------
    RunConflictError
        If another start has claimed it at the same time.
    """
    mine = Owner.of_this_process(1 if present is None else present.epoch + 1)
    if not folder.claim(_path(mine.epoch), mine.encode()):
        winner = current(folder)
        whose = f"process {winner.pid} on {winner.host!r}" if winner else "somebody else"
        raise RunConflictError(
            f"{folder.url} was taken by {whose} at the same moment",
            fix=f"wait for it, stop it with `xpipe stop {folder.url}`, or give another output path",
            page="folder-in-use",
        )
    return mine


def release(folder: Folder, mine: Owner) -> None:
    """Give the folder back; the claims of others stand.

    A store that does not take that is no error: it would hide the one that ended the run, and the
    heart stands still.
    """
    try:
        folder.write(_path(mine.epoch), replace(mine, is_released=True).encode())
        folder.remove(_beat(mine.epoch))
    except StoreError as error:
        logger.warning("%s could not be given back: %s", folder.url, error.what)


def beat(folder: Folder, mine: Owner, count: int) -> None:
    """Tell that an owner lives."""
    folder.write(_beat(mine.epoch), str(count).encode())


def refuse_if_beating(folder: Folder, present: Owner) -> None:
    """Watch an owner that cannot be seen from here, and refuse if it lives.

    Raises
    ------
    RunConflictError
        If it beats within `WINDOW`.
    """
    logger.warning(
        "%s was last run by process %s on %r; watching for %g s whether it lives",
        folder.url,
        present.pid,
        present.host,
        WINDOW,
    )
    before, deadline = _count(folder, present), time.monotonic() + WINDOW
    while time.monotonic() < deadline:
        time.sleep(BEAT / 5)
        if _count(folder, present) != before:
            raise RunConflictError(
                f"{folder.url} is being run by process {present.pid} on {present.host!r}, whose "
                "heartbeat advances",
                fix=f"wait for it, stop it with `xpipe stop {folder.url}`, or give another output "
                "path",
                page="folder-in-use",
            )
    logger.warning("its heartbeat stands still; the folder is taken over")


def _count(folder: Folder, present: Owner) -> bytes:
    try:
        return folder.read(_beat(present.epoch))
    except FileNotFoundError:
        return b""  # it died before its first beat, or has released the folder


def _epochs(folder: Folder) -> list[int]:
    stems = (name.removesuffix(".json") for name in folder.entries(paths.OWNERS))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _path(epoch: int) -> str:
    return f"{paths.OWNERS}/{epoch}.json"


def _beat(epoch: int) -> str:
    return f"{paths.OWNERS}/{epoch}.beat"
