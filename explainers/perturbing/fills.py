"""What is put in place of features that are absent: a baseline, or draws from a background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.perturbing.game import Game


class Fill(Protocol):
    """Values of absent features."""

    is_random: ClassVar[bool]
    """Whether they are drawn, the same for coalitions of one replicate."""

    def at(self, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return what is filled in, ``(1 | replicates, 1 | rows, ...)``, for rows of the batch."""

    def empty(self, game: Game) -> Tensor:
        """Return the value of a game's rows where all features are absent, ``(rows,)``."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """One baseline for each sample."""

    is_random: ClassVar[bool] = False

    baseline: Tensor
    """``(1 | batch, ...)``."""

    def at(self, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return the baseline of these rows."""
        return (self.baseline if len(self.baseline) == 1 else self.baseline[rows])[None]

    def empty(self, game: Game) -> Tensor:
        """Return the value of the baseline."""
        nobody = torch.zeros(1, game.n_features, dtype=torch.bool, device=self.baseline.device)
        return game.values(nobody)[:, 0]
