"""How a data set is cut: runs of consecutive samples, fixed by the store, not by the workers."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import PlanError


@dataclass(frozen=True, order=True)
class Shard:
    """Samples ``start`` to ``stop`` (exclusive): the unit of work and of storage."""

    index: int
    """Position among the shards; names every object that is written for it."""
    start: int
    """First sample."""
    stop: int
    """One after the last sample."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The shard's rows in an array over all samples."""
        return slice(self.start, self.stop)


def cut(n_samples: int, shard_size: int) -> tuple[Shard, ...]:
    """Cut samples into shards of equal size, the last one as long as what is left.

    Raises
    ------
    PlanError
        If the size is not positive or the number of samples is negative.
    """
    if shard_size < 1:
        raise PlanError(
            f"got a shard size of {shard_size!r}, expected at least 1",
            fix="set output.shard_size to a positive number or to auto",
        )
    if n_samples < 0:
        raise PlanError(
            f"got {n_samples!r} samples, expected none or more", fix="check the manifest"
        )
    starts = range(0, n_samples, shard_size)
    return tuple(
        Shard(index, start, min(start + shard_size, n_samples))
        for index, start in enumerate(starts)
    )
