"""States of shards to results of scans: merged in shard order, whoever made them and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.base import united
from pipeline.sinks import states

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

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
    return united(parts(path, scan, each, shards))


def parts(path: str, scan: str, each: Round, shards: Iterable[int]) -> Iterator[Result]:
    """Yield the result group by group; no more than one group's entries are in memory.

    The parameters are those of `finalise`.
    """
    ordered = sorted(shards)
    if not ordered:
        init = each.scan.init()
        for group in each.scan.groups(tuple(init)):
            yield each.scan.finalise({name: init[name] for name in group})
        return
    found = {name for shard in ordered for name in states.names(path, scan, each.name, shard)}
    for group in each.scan.groups(tuple(sorted(found))):
        yield _finalised(path, scan, each, ordered, frozenset(group))


def _finalised(
    path: str, scan: str, each: Round, shards: Iterable[int], group: Collection[str]
) -> Result:
    stored = (states.read(path, scan, each.name, shard, group) for shard in shards)
    # what a shard has nothing of would not change it
    merged = each.scan.merged(state for state in stored if state)
    return each.scan.finalise({name: merged[name] for name in sorted(merged) if name in group})
