"""Intervals of an axis of the input, one for each place of an axis of a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NOWHERE = torch.iinfo(torch.int64).max


@dataclass(frozen=True, eq=False)
class Along:
    """What places of a value depend on along one axis of the input: from start to stop.

    Where there is nothing, the start is behind the stop.
    """

    axis: int | None
    """Which axis of the value, batch not counted, it differs along; None where all is the same."""
    starts: Tensor
    """First place, int64, for each place of that axis."""
    stops: Tensor
    """Behind the last."""

    def hull(self) -> Along:
        """Return what all places together depend on."""
        return Along(None, self.starts.amin(0, keepdim=True), self.stops.amax(0, keepdim=True))

    def without(self, *axes: int) -> Along:
        """Return it where places along some axes of the value are mixed."""
        return self.hull() if self.axis in axes else self

    def over(self, axis: int | None, size: int) -> tuple[Tensor, Tensor]:
        """Return starts and stops for the places of an axis, of that size."""
        found = self if self.axis == axis else self.hull()
        return found.starts.expand(size), found.stops.expand(size)

    def moved(self, axis: int, reads: Tensor, size: int) -> Along:
        """Return it for places that read others: windows, copies.

        Parameters
        ----------
        axis
            Of the new value.
        reads
            ``(places, reads)``: what each reads along the present axis; there is nothing outside
            of it.
        size
            Of the present axis.
        """
        is_there = (reads >= 0) & (reads < size)
        places = reads.clamp(0, size - 1)
        starts, stops = self.over(self.axis, size)
        first = torch.where(is_there, starts[places], _NOWHERE).amin(1)
        return Along(axis, first, torch.where(is_there, stops[places], 0).amax(1))
