"""How much of each concept there is in each sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FIELDS = ("total", "peak", "position")
"""Of `Scores`, in order; what they are called where they are stored, too."""


@dataclass(frozen=True)
class Scores:
    """Raw scores of a layer's concepts: of activations, or of relevances."""

    total: Tensor
    """Sum over the concept's positions, ``(batch, concepts)``."""
    peak: Tensor
    """Greatest value, with its sign, over the positions, ``(batch, concepts)``."""
    position: Tensor
    """Flat row-major index of the first greatest value, int64, ``(batch, concepts)``."""
