"""Boxes on an input, and maps made of a number per box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals along an axis, whose starts and stops do not decrease."""

    size: int
    """Of the axis."""
    starts: tuple[int, ...]
    stops: tuple[int, ...]

    def __post_init__(self) -> None:
        within = all(0 <= a < b <= self.size for a, b in zip(self.starts, self.stops, strict=True))
        is_sorted = all(a <= b for each in (self.starts, self.stops) for a, b in pairwise(each))
        if not self.starts or not within or not is_sorted:
            raise ValueError(
                f"got intervals from {self.starts} to {self.stops} on an axis of {self.size}; "
                "expected one or more within it, in order, none of them empty"
            )

    @classmethod
    def whole(cls, size: int) -> Intervals:
        """Return the one interval that is all of an axis."""
        return cls(size, (0,), (size,))

    @classmethod
    def sliding(cls, size: int, window: int, stride: int, *, is_clipped: bool) -> Intervals:
        """Return the places of a sliding window.

        Parameters
        ----------
        size, window, stride
            Of the axis, the window, and from one window to the next.
        is_clipped
            Whether windows go on until the end of the axis is reached, where the last is cut off;
            otherwise only those that fit are taken.
        """
        steps = (size - window) / stride
        n_windows = (math.ceil(steps) if is_clipped else math.floor(steps)) + 1
        starts = tuple(step * stride for step in range(n_windows) if step * stride < size)
        return cls(size, starts, tuple(min(start + window, size) for start in starts))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.starts)

    def some(self, which: slice) -> Intervals:
        """Return some that follow each other."""
        return Intervals(self.size, self.starts[which], self.stops[which])

    @property
    def is_whole(self) -> bool:
        """Whether there is one alone, and it is all of the axis."""
        return self.starts == (0,) and self.stops == (self.size,)

    @cached_property
    def coverage(self) -> Tensor:
        """How many intervals each place is in, ``(size,)``."""
        steps = torch.zeros(self.size + 1, dtype=torch.int64)
        steps.index_add_(0, torch.tensor(self.starts), torch.ones(len(self), dtype=torch.int64))
        steps.index_add_(0, torch.tensor(self.stops), -torch.ones(len(self), dtype=torch.int64))
        return steps.cumsum(0)[:-1]

    @property
    def n_covered(self) -> int:
        """Places that are in an interval."""
        return int((self.coverage > 0).sum())

    def inside(self, which: Tensor) -> Tensor:
        """Return the places that are in each of some intervals, bool ``(which, size)``."""
        return self.holds(which, torch.arange(self.size, device=which.device))

    def holds(self, which: Tensor, places: Tensor) -> Tensor:
        """Return which places, ``(places,)`` or ``(which, places)``, are in some intervals."""
        starts = torch.tensor(self.starts, device=which.device)[which, None]
        stops = torch.tensor(self.stops, device=which.device)[which, None]
        return (starts <= places) & (places < stops)

    def summed(self, numbers: Tensor) -> Tensor:
        """Return for each place the sum over the intervals it is in.

        Parameters
        ----------
        numbers
            ``(batch, intervals, ...)``.

        Returns
        -------
        Tensor
            ``(batch, ..., size)``.
        """
        # In order, those that a place is in follow each other.
        first = torch.searchsorted(
            torch.tensor(self.stops), torch.arange(self.size), right=True
        ).to(numbers.device)
        coverage = self.coverage.to(numbers.device)
        numbers = numbers.movedim(1, -1)
        total = numbers.new_zeros(*numbers.shape[:-1], self.size)
        for position in range(int(self.coverage.max())):
            each = numbers[..., (first + position).clamp_(max=len(self) - 1)]
            total += torch.where(position < coverage, each, 0.0)
        return total


@dataclass(frozen=True)
class Boxes:
    """All combinations of intervals, one along each axis of a sample; the last varies fastest."""

    axes: tuple[Intervals, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return math.prod(self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """Intervals along each axis."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(axis.size for axis in self.axes)

    @property
    def sizes(self) -> Tensor:
        """Values in each box, ``(boxes,)``."""
        found = torch.ones(1, dtype=torch.int64)
        for axis in self.axes:
            extents = torch.tensor(axis.stops) - torch.tensor(axis.starts)
            found = (found[:, None] * extents).flatten()
        return found

    def along(self, which: Tensor) -> tuple[Tensor, ...]:
        """Return for some boxes the interval of each axis, ``(which,)`` each."""
        return tuple(torch.unravel_index(which, self.counts))

    def inside(self, which: Tensor) -> Tensor:
        """Return the values that are in each of some boxes.

        Returns
        -------
        Tensor
            Bool ``(which, ...)``, broadcasting against samples: of size 1 along axes of which each
            box has all.
        """
        n_axes = len(self.axes)
        found = torch.ones(len(which), *[1] * n_axes, dtype=torch.bool, device=which.device)
        for position, (axis, one) in enumerate(zip(self.axes, self.along(which), strict=True)):
            if not axis.is_whole:
                ones = [1] * n_axes
                ones[position] = axis.size
                found = found & axis.inside(one).view(-1, *ones)
        return found

    def summed(self, numbers: Tensor) -> Tensor:
        """Return for each value the sum of the numbers of the boxes it is in.

        Parameters
        ----------
        numbers
            ``(batch, boxes)``.

        Returns
        -------
        Tensor
            ``(batch, *shape)``.
        """
        found = numbers.view(len(numbers), *self.counts)
        for axis in self.axes:
            found = axis.summed(found)
        return found

    @property
    def n_uncovered(self) -> int:
        """Values that are in no box."""
        return math.prod(self.shape) - math.prod(axis.n_covered for axis in self.axes)

    def coverage(self) -> Tensor:
        """Return how many boxes each value is in, int64 ``shape``."""
        found = torch.ones((), dtype=torch.int64)
        for axis in self.axes:
            found = found[..., None] * axis.coverage
        return found
