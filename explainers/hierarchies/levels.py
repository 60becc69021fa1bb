"""Levels of a hierarchy: which component each cell is in, and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Level:
    """Components of a batch at one level of their hierarchies."""

    labels: Tensor
    """Component of each cell, int64 ``(batch, cells)``: 0 in none, otherwise its id, which goes on
    from level to level; ids are of a sample and have gaps."""
    scores: Tensor
    """Of each component, by id, ``(batch, 1 + largest id, classes)``: NaN where there is none."""

    @property
    def is_there(self) -> Tensor:
        """Whether there is a component of an id, bool ``(batch, 1 + largest id)``."""
        return present(self.labels, self.scores.shape[1])


def present(labels: Tensor, n_ids: int) -> Tensor:
    """Return which ids label a cell, 0 left out, bool ``(batch, ids)``."""
    found = labels.new_zeros(len(labels), n_ids, dtype=torch.bool)
    found.scatter_(1, labels, torch.ones_like(labels, dtype=torch.bool))
    found[:, 0] = False
    return found


def placed(labels: Tensor, is_there: Tensor, scores: Tensor) -> Level:
    """Return a level from the scores of its components, sample by sample and id by id."""
    found = scores.new_full((*is_there.shape, scores.shape[1]), torch.nan)
    found[is_there] = scores
    return Level(labels, found)
