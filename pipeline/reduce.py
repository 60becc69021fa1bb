"""States of shards to results of scans: merged in shard order, whoever made them and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sinks import states

if TYPE_CHECKING:
    from collections.abc import Iterable

    from explainers import Result, Round


def finalise(path: str, scan: str, each: Round, shards: Iterable[int]) -> Result:
    """Return the result of one round from the states that are stored.

    Parameters
    ----------
    path
        Folder of the run.
    scan
        The scan's entry.
    each
        Its round.
    shards
        Those that are committed; they are merged in ascending order.
    """
    state = each.scan.init()
    for position, shard in enumerate(sorted(shards)):
        stored = states.read(path, scan, each.name, shard)
        state = each.scan.merge(state, stored) if position else stored
    return each.scan.finalise(state)
