"""How far boxes reach along an axis, operator by operator.

All boxes get places of the same number, so that those of a batch are one tensor: what a box does
not reach is computed anew beside what it does, and places never leave the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explainers.regions.boxes import Intervals


@dataclass(frozen=True)
class Reach:
    """Where intervals of the input can change a value, along one of its axes."""

    starts: tuple[int, ...]
    """First place of each interval."""
    size: int
    """Places, the same for all intervals."""
    full: int
    """Places that the axis has."""

    @classmethod
    def of(cls, intervals: Intervals) -> Reach:
        """Return what intervals reach on their own axis."""
        pairs = zip(intervals.starts, intervals.stops, strict=True)
        return _fitted([(start, stop) for start, stop in pairs], intervals.size)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the axis."""
        return self.size >= self.full


@dataclass(frozen=True)
class Window:
    """What one output place reads along an axis: every `dilation`-th place, `size` of them."""

    size: int
    stride: int = 1
    before: int = 0
    """Places in front of the first that is there."""
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Places from the first that is read to the last."""
        return self.dilation * (self.size - 1) + 1

    @property
    def is_pointwise(self) -> bool:
        """Whether each place is made of the same place alone."""
        return (self.size, self.stride, self.before) == (1, 1, 0)

    def reached(self, reach: Reach, full: int) -> Reach:
        """Return the output places, of `full`, that read a place of the input that is reached."""
        ranges = []
        for start in reach.starts:
            first = -(-(start + self.before - self.extent + 1) // self.stride)
            last = (start + reach.size - 1 + self.before) // self.stride
            # what no output reads still has a place of its own, where nothing changes
            first = min(max(0, first), full - 1)
            ranges.append((first, max(first, min(last, full - 1)) + 1))
        return _fitted(ranges, full)

    def read(self, reached: Reach) -> tuple[tuple[int, ...], int]:
        """Return which places outputs read: the first for each interval, and how many."""
        starts = tuple(start * self.stride - self.before for start in reached.starts)
        return starts, (reached.size - 1) * self.stride + self.extent


def hull(reaches: Sequence[Reach]) -> Reach:
    """Return what values at the same places reach together."""
    full = reaches[0].full
    starts = zip(*(reach.starts for reach in reaches), strict=True)
    ends = zip(*([start + reach.size for start in reach.starts] for reach in reaches), strict=True)
    pairs = zip(starts, ends, strict=True)
    return _fitted([(min(first), max(last)) for first, last in pairs], full)


def _fitted(ranges: Sequence[tuple[int, int]], full: int) -> Reach:
    """Return ranges made equally long, moved to where they fit."""
    size = min(full, max(last - first for first, last in ranges))
    return Reach(tuple(min(first, full - size) for first, _ in ranges), size, full)
