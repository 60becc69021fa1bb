"""What is left at the end of growth is joined, two components at a time, until one remains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from explainers.hierarchies.levels import Level
from explainers.hierarchies.scoring import asked, driving

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.hierarchies.scoring import Scorer


def merged(level: Level, scorer: Scorer, drive: Tensor) -> list[Level]:
    """Return the levels that end in one component of each sample, one merge a level.

    Each time the pair of components is joined, under the smaller id, for which
    ``s(both) - max(s(one), s(other))`` is largest, the first such pair of ids where several are;
    s is the driven score. This is how the authors' code ends (Singh, Murdoch, Yu 2019,
    arXiv:1806.05337), which asks for all pairs each time: here pairs are asked for once. Where a
    difference is not a number it counts as the smallest. A sample that has one component, or
    none, stays as it is.

    Parameters
    ----------
    level
        Last of the growth.
    scorer
        Of unions of cells.
    drive
        Weights of the classes in what drives the merging, ``(batch, classes)``.
    """
    if not bool((level.is_there.sum(1) > 1).any()):
        return []
    merging = _Merging(level, scorer, drive)
    found = [merging.step()]
    while bool((found[-1].is_there.sum(1) > 1).any()):
        found.append(merging.step())
    return found


class _Merging:
    """Pairs of a batch and their scores, while they are joined."""

    def __init__(self, level: Level, scorer: Scorer, drive: Tensor) -> None:
        self.level, self.scorer, self.drive = level, scorer, drive
        there = level.is_there
        self.pairs = there[:, :, None] & there[:, None]
        """Which pairs of ids there are, ``(batch, id, larger id)``."""
        self.pairs &= torch.ones_like(self.pairs[0]).triu(1)
        self.driven = drive.new_full(self.pairs.shape, -math.inf)
        """Driven score of each pair."""
        self._ask(level.labels, self.pairs, level.scores)

    def step(self) -> Level:
        """Join a pair of each sample that has one, and ask for the pairs that it gives."""
        first, second, is_left = self._best()
        old = self.level.labels
        labels = torch.where(is_left[:, None] & (old == second[:, None]), first[:, None], old)
        scores = self.level.scores.clone()
        rows = is_left.nonzero()[:, 0]
        first, second = first[rows], second[rows]
        scores[rows, second] = torch.nan
        self.pairs[rows, second] = False
        self.pairs[rows, :, second] = False
        new = torch.zeros_like(self.pairs)
        new[rows, first] = self.pairs[rows, first]
        new[rows, :, first] = self.pairs[rows, :, first]
        # a component is the pair of itself and itself
        new[rows, first, first] = True
        self._ask(labels, new, scores)
        self.level = Level(labels, scores)
        return self.level

    def _ask(self, labels: Tensor, pairs: Tensor, scores: Tensor) -> None:
        rows, one, other = pairs.nonzero(as_tuple=True)

        def members(some: slice) -> Tensor:
            here = labels[rows[some]]
            return (here == one[some, None]) | (here == other[some, None])

        found = asked(self.scorer, rows, members)
        self.driven[rows, one, other] = driving(found, self.drive, rows)
        is_component = one == other
        scores[rows[is_component], one[is_component]] = found[is_component]

    def _best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pair of ids that each sample joins, and whether it has any."""
        scores = self.level.scores
        own = (scores * self.drive[:, None]).sum(2)
        gain = self.driven - torch.maximum(own[:, :, None], own[:, None])
        lowest = torch.finfo(gain.dtype).min
        gain = gain.nan_to_num(nan=lowest, neginf=lowest).masked_fill(~self.pairs, -math.inf)
        best = gain.flatten(1).argmax(1)
        n_ids = self.pairs.shape[1]
        return best // n_ids, best % n_ids, self.pairs.flatten(1).any(1)
