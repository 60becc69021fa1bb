"""A job's log as it is written: whole lines, through lost connections, without blocking signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import warnings
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.jobs.client import Cluster

TICK = 0.3
"""Seconds at most between two looks of the caller at its signals."""
PAUSE = 2.0
"""Seconds before a lost connection is tried again."""
MAX_LOSSES = 30
"""Connections lost in a row, a minute of them, until the cluster counts as gone."""


def follow(cluster: Cluster, submission: str, pause: float = PAUSE) -> Iterator[str | None]:
    """Yield the lines of a job's log until it has ended; None in between, while nothing comes.

    Raises
    ------
    JobError
        If the cluster cannot be reached any more; the job goes on without us.
    """
    n_seen, n_losses, rest = 0, 0, ""
    while True:
        try:
            for chunk in _chunks(cluster, submission, n_seen):
                if chunk is None:
                    yield None
                    continue
                n_seen, n_losses = n_seen + len(chunk), 0
                *lines, rest = (rest + chunk).split("\n")
                yield from lines
            state = cluster.state(submission)
            if state is None or not state.is_live:
                break
        except (OSError, RuntimeError, JobError) as error:
            n_losses += 1
            if n_losses > MAX_LOSSES:
                raise JobError(
                    f"the connection to {cluster.address} is lost; the job goes on there",
                    fix=f"later: xpipe logs --follow --address {cluster.address} "
                    f"{submission.removeprefix('xpipe-')}",
                    page="cluster-unreachable",
                ) from error
        yield None
        time.sleep(pause)
    if rest:
        yield rest


def _chunks(cluster: Cluster, submission: str, n_skipped: int) -> Iterator[str | None]:
    """Yield what is printed after the first `n_skipped` characters, and None every `TICK`.

    The caller's thread drives the loop, piece by piece: signals are handled between the pieces, and
    never in the middle of a read.
    """
    loop = asyncio.new_event_loop()
    chunks = cluster.tail(submission)
    task: asyncio.Task[str] | None = None
    try:
        while True:
            if task is None:
                task = loop.create_task(_next(chunks))
            with _aiohttp_quiet():
                loop.run_until_complete(asyncio.wait({task}, timeout=TICK))
            if not task.done():
                yield None
                continue
            try:
                chunk = task.result()
            except StopAsyncIteration:
                return
            finally:
                task = None
            taken = chunk[n_skipped:]
            n_skipped = max(0, n_skipped - len(chunk))
            if taken:
                yield taken
    finally:
        _close(loop, task, chunks)


@contextlib.contextmanager
def _aiohttp_quiet() -> Iterator[None]:
    """Let Ray call aiohttp in the way that it deprecates: it does so with every address."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ssl=None is deprecated", DeprecationWarning)
        yield


async def _next(chunks: Any) -> str:
    chunk = await anext(chunks, None)
    if chunk is None:
        # not raised by the generator itself: a task cannot carry StopAsyncIteration of one
        raise StopAsyncIteration
    return str(chunk)


def _close(loop: asyncio.AbstractEventLoop, task: asyncio.Task[str] | None, chunks: Any) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            loop.run_until_complete(task)
    with contextlib.suppress(Exception):
        loop.run_until_complete(chunks.aclose())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def event_in(line: str) -> dict[str, Any] | None:
    """Return the event that a line of ``xpipe run --events`` holds, or None: somebody else's."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None
