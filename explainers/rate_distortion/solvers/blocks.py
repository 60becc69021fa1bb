"""Distortions found a fixed number of rows at a time, so that a row's bits are its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems

VALUES = {"cpu": 2**17, "cuda": 2**22}
"""Values of the maps that the rows of a block take through the network, by device: enough for a
good use of it, and on a CPU one photograph, so that little is padded."""

MOST = {"cpu": 8, "cuda": 256}
"""Rows of a block at most: on one core a row of 8 digits costs a fifth more than one of 32, and a
row alone four times as much."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A distortion that sees `size` rows at every call, the last one again in place of missing.

    Kernels round differently for batches of different sizes, and a search for a step's length
    makes of the last bit a difference of percents in places where the objective is flat. With a
    fixed size a row goes through the same kernels whatever the other rows are and how many are
    left, and what is found for it has the same bits wherever these do not depend on its place in
    the block.
    """

    distortion: Distortion
    size: int

    @classmethod
    def of(cls, distortion: Distortion, problems: Problems) -> Self:
        """Return blocks of a size that masks, device and distortion decide alone, not the rows."""
        device = problems.start.device.type
        device = device if device in MOST else "cuda"
        n_values = problems.n_features * distortion.n_maps
        return cls(distortion, max(1, min(MOST[device], VALUES[device] // max(1, n_values))))

    @property
    def selected(self) -> Tensor:
        """What is explained of each clean sample, ``(samples,)``."""
        return self.distortion.selected

    @property
    def n_maps(self) -> int:
        """Maps that a row takes through the network."""
        return self.distortion.n_maps

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distortions ``(rows,)`` and their gradients, shaped as the masks."""
        filled = self._filled(rows)
        found = [
            self.distortion(masks[filled[piece]], rows[filled[piece]])
            for piece in pieces(len(filled), self.size)
        ]
        values, gradients = zip(*found, strict=True)
        return torch.cat(values)[: len(rows)], torch.cat(gradients)[: len(rows)]

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return the distortions alone, ``(rows,)``."""
        filled = self._filled(rows)
        found = [
            self.distortion.value(masks[filled[piece]], rows[filled[piece]])
            for piece in pieces(len(filled), self.size)
        ]
        return torch.cat(found)[: len(rows)]

    def _filled(self, rows: Tensor) -> Tensor:
        """Return the places of the rows, the last as often as blocks are then full."""
        n_places = len(rows) + -len(rows) % self.size
        return torch.arange(n_places, device=rows.device).clamp(max=len(rows) - 1)
