"""Mean and spread of many maps of the same samples, a few maps at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MapMoments:
    """Moments over the leading axis of maps, merged as Chan, Golub and LeVeque (1979) do."""

    count: int
    """Maps of each sample."""
    mean: Tensor
    """``(batch, ...)``."""
    squares: Tensor
    """Sums of squared deviations from the mean, ``(batch, ...)``."""

    @classmethod
    def over(cls, pieces: Iterable[Tensor], change: Change | None = None) -> MapMoments:
        """Return the moments of maps ``(maps, batch, ...)`` that come piece by piece.

        Raises
        ------
        ValueError
            If there is no piece.
        """
        total = None
        for piece in pieces:
            maps = piece if change is None else change(piece)
            mean = maps.mean(0)
            here = cls(len(maps), mean, (maps - mean).square_().sum(0))
            total = here if total is None else total.merged(here)
        if total is None:
            raise ValueError("got no maps, expected at least one")
        return total

    @classmethod
    def joined(cls, parts: Sequence[MapMoments]) -> MapMoments:
        """Return the moments of the samples of all parts, which have as many maps each."""
        if len(parts) == 1:
            return parts[0]
        mean = torch.cat([part.mean for part in parts])
        return cls(parts[0].count, mean, torch.cat([part.squares for part in parts]))

    def merged(self, other: MapMoments) -> MapMoments:
        """Return the moments of both's maps."""
        count = self.count + other.count
        rise = other.mean - self.mean
        mean = torch.add(self.mean, rise, alpha=other.count / count)
        between = rise.square().mul_(self.count * other.count / count)
        return MapMoments(count, mean, self.squares + other.squares + between)

    def of_rows(self, rows: Tensor) -> MapMoments:
        """Return the moments of some samples, by a mask or by their positions."""
        return MapMoments(self.count, self.mean[rows], self.squares[rows])

    @property
    def standard_error(self) -> Tensor:
        """Deviation over the root of the number of maps; NaN where there is one."""
        if self.count < 2:
            return torch.full_like(self.mean, math.nan)
        return (self.squares / (self.count * (self.count - 1))).sqrt()
