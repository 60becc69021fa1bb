"""Growth of components in pictures, from the cells that matter most to a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.hierarchies.connected import components
from explainers.hierarchies.levels import Level, placed, present
from explainers.hierarchies.scoring import asked, driving

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.hierarchies.scoring import Scorer

MANY = 1 / 3
"""Share of the cells from which on more are selected at a time."""
EASED = 15.0
"""By how much the percentile is then lowered."""
SIDES = 3
"""Selected neighbours at its four sides with which a cell is selected too."""


@dataclass(frozen=True)
class Growth:
    """How components of pictures grow: the authors' algorithm, for all of a batch at once.

    The cells whose driven score is at least a percentile of all are selected, and then, in rounds,
    each component of selected cells offers the cells at its sides: a cell's score is now
    ``s(component and cell) - s(component)``, the other cells keep theirs. Where two components
    share a neighbour, the one of the larger id counts. Singh, Murdoch and Yu 2019,
    arXiv:1806.05337, as their code (``agg_2d``) does it, but for its limit of eleven ids.
    """

    percentile: float
    """Of the driven scores of the cells that are left, 0 to 100; lowered by 15 where more than a
    third is selected."""
    n_iterations: int
    """Rounds, and levels."""
    smooth: bool = True
    """Whether cells with three selected sides are selected too."""
    absolute: bool = False
    """Whether the percentile is of the scores' absolute values."""

    def levels(
        self, scorer: Scorer, drive: Tensor, shape: tuple[int, int], seeds: Tensor
    ) -> list[Level]:
        """Return the levels of a batch.

        Parameters
        ----------
        scorer
            Of unions of cells.
        drive
            Weights of the classes in what drives growth, ``(batch, classes)``.
        shape
            Rows and columns of cells.
        seeds
            Scores of single cells, ``(batch, cells, classes)``.
        """
        track = (seeds * drive[:, None]).sum(2)
        chosen = self._selected(track)
        found: list[Level] = []
        for left in reversed(range(self.n_iterations)):
            labels = components(chosen.view(-1, *shape)).flatten(1)
            labels = corresponding(labels, found[-1].labels) if found else labels
            level, grown = _scored(labels, scorer, drive, shape, has_candidates=left > 0)
            found.append(level)
            track = torch.where(torch.isnan(grown), track, grown)
            track = track.masked_fill(chosen, torch.nan)
            chosen = chosen | self._selected(track)
            if self.smooth:
                chosen = smoothed(chosen.view(-1, *shape)).flatten(1)
        return found

    def _selected(self, track: Tensor) -> Tensor:
        return selected(track.abs() if self.absolute else track, self.percentile)


def selected(scores: Tensor, percentile: float) -> Tensor:
    """Return which scores ``(batch, cells)`` are at least a percentile of those that are numbers.

    The percentile is lowered where many cells are not numbers.
    """
    n_cells = scores.shape[1]
    n_chosen = torch.isnan(scores).sum(1)
    return highest(scores, percentile - EASED * (n_chosen > MANY * n_cells).double())


def highest(scores: Tensor, percentiles: Tensor) -> Tensor:
    """Return which scores ``(batch, cells)`` are at least a percentile ``(batch,)`` of their row's.

    Of those that are numbers. Percentiles are interpolated linearly, and at least 0; without a
    number nothing is selected.
    """
    are_numbers = ~torch.isnan(scores)
    n_left = are_numbers.sum(1)
    # multiplied first: whole positions stay whole
    position = (n_left - 1).clamp(min=0).double() * percentiles.clamp(min=0) / 100
    low = position.floor().long()
    weight = (position - low).to(scores)
    ascending = scores.sort(1).values
    below = ascending.gather(1, low[:, None])[:, 0]
    above = ascending.gather(1, (low + 1).clamp(max=scores.shape[1] - 1)[:, None])[:, 0]
    above = torch.where(weight > 0, above, below)
    step = above - below
    bound = torch.where(weight < 0.5, below + step * weight, above - step * (1 - weight))
    return are_numbers & (scores >= bound[:, None])


def smoothed(chosen: Tensor) -> Tensor:
    """Return cells ``(batch, rows, columns)``, and those with three of them at their sides."""
    return chosen | (_sides(chosen.long()).bool().sum(1) >= SIDES)


def corresponding(labels: Tensor, before: Tensor) -> Tensor:
    """Return labels ``(batch, cells)`` that take over the ids of components which they contain.

    Of several ids the smallest is kept; what is new takes the smallest that are free, the last
    component first.
    """
    n_labels = int(labels.max()) + 1
    n_ids = max(n_labels, int(before.max()) + 1) + n_labels
    none = n_ids
    contained = torch.where((labels > 0) & (before > 0), before, none)
    kept = labels.new_full((len(labels), n_labels), none).scatter_reduce(
        1, labels, contained, "amin"
    )
    is_there = present(labels, n_labels)
    is_new = is_there & (kept == none)
    is_taken = present(kept, n_ids + 1)[:, 1:none]
    # the n-th that is new, from the last one, takes the n-th that is free
    nth = is_new.long().flip(1).cumsum(1).flip(1)
    nth_free = (~is_taken).long().cumsum(1)
    free = 1 + torch.searchsorted(nth_free, nth.clamp(min=1))
    ids = torch.where(is_new, free, kept).masked_fill(~is_there, 0)
    return ids.gather(1, labels)


def _scored(
    labels: Tensor, scorer: Scorer, drive: Tensor, shape: tuple[int, int], *, has_candidates: bool
) -> tuple[Level, Tensor]:
    """Return components and their scores, and the scores of cells that could join them, else NaN.

    All are asked for by one call.
    """
    is_there = present(labels, int(labels.max()) + 1)
    grown = drive.new_full(labels.shape, torch.nan)
    owner = torch.zeros_like(labels)
    if has_candidates:
        # a neighbour of several belongs to that of the largest id, which is scored last
        around = _sides(labels.view(-1, *shape)).amax(1).flatten(1)
        owner = around.masked_fill(labels > 0, 0)
    entries = torch.cat([is_there, owner > 0], 1).nonzero()
    rows, entry = entries[:, 0], entries[:, 1] - is_there.shape[1]
    is_cell = entry >= 0
    cell = entry.clamp(min=0)
    ids = torch.where(is_cell, owner[rows, cell], entry + is_there.shape[1])
    numbers = torch.arange(labels.shape[1], device=labels.device)

    def members(some: slice) -> Tensor:
        with_cell = is_cell[some, None] & (cell[some, None] == numbers)
        return (labels[rows[some]] == ids[some, None]) | with_cell

    scores = asked(scorer, rows, members)
    level = placed(labels, is_there, scores[~is_cell])
    rows, ids, cell = rows[is_cell], ids[is_cell], cell[is_cell]
    own = driving(level.scores[rows, ids], drive, rows)
    grown[rows, cell] = driving(scores[is_cell], drive, rows) - own
    return level, grown


def _sides(values: Tensor) -> Tensor:
    """Return what lies at the four sides of each cell, ``(batch, 4, rows, columns)``, 0 outside."""
    padded = functional.pad(values, (1, 1, 1, 1))
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    return torch.stack([above, below, padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]], 1)
