"""Raw scores of some samples, in every layer that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.concepts.scores import FIELDS, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """Raw scores of samples; the order of the rows does not matter."""

    sample: Tensor
    """Indices of the samples in the data set, int64, ``(rows,)``."""
    group: Tensor
    """Class of each, int64, ``(rows,)``; -1 where there is none."""
    layers: Mapping[str, Scores]
    """Scores by layer, ``(rows, channel)`` each."""

    @staticmethod
    def joined(parts: Sequence[Scored]) -> Scored:
        """Return the rows of all parts, which have the same layers."""
        if len(parts) == 1:
            return parts[0]
        layers = {
            layer: Scores(
                *(
                    torch.cat([getattr(part.layers[layer], field) for part in parts])
                    for field in FIELDS
                )
            )
            for layer in parts[0].layers
        }
        sample = torch.cat([part.sample for part in parts])
        return Scored(sample, torch.cat([part.group for part in parts]), layers)
