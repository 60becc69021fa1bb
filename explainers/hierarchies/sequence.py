"""Growth of components in sequences, from the positions that matter most to a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.hierarchies.connected import components
from explainers.hierarchies.levels import Level, present
from explainers.hierarchies.picture import corresponding, highest
from explainers.hierarchies.scoring import driving

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.hierarchies.scoring import Scorer

LAST_WORDS = (0.0, 0.0, 49.0, 59.0, 49.0, 59.0)
"""Percentile where so few positions are left: one is then selected of one, two and three, and two
of four and five."""


@dataclass(frozen=True)
class SequenceGrowth:
    """How components of sequences grow: the authors' algorithm, for all of a batch at once.

    The positions whose driven score is, in absolute value, at least a percentile of all are
    selected, and then, in rounds, each component of neighbouring positions offers the one before
    it and the one after it: a position's score is now ``s(component and it) - s(component)``, the
    others keep theirs. A position between two components gets the score that the second gives it.
    Growth ends where all are selected. Singh, Murdoch and Yu 2019, arXiv:1806.05337, as their code
    (``agg_1d``) does it.

    A union is asked for once: components are intervals, and what a component is after it took a
    neighbour is known from the round before.
    """

    percentile: float
    """Of the driven scores of the positions that are left, 0 to 100; where five or fewer are left,
    see `LAST_WORDS`."""
    n_iterations: int
    """Rounds, and levels, at most."""
    absolute: bool = True
    """Whether positions are selected by the absolute value of their scores."""

    def levels(self, scorer: Scorer, drive: Tensor, seeds: Tensor) -> list[Level]:
        """Return the levels of a batch, as many as the sample needs that grows longest.

        Parameters
        ----------
        scorer
            Of unions of positions.
        drive
            Weights of the classes in what drives growth, ``(batch, classes)``: 1 at the target and,
            in the published algorithm, -1 at the other of two classes.
        seeds
            Scores of single positions, ``(batch, positions, classes)``.
        """
        intervals = Intervals(scorer, seeds)
        track = (seeds * drive[:, None]).sum(2)
        chosen = self._selected(track)
        found: list[Level] = []
        for left in reversed(range(self.n_iterations)):
            labels = components(chosen[:, None])[:, 0]
            level, grown = _scored(labels, intervals, drive, has_candidates=left > 0)
            if found:
                level = _renamed(level, corresponding(labels, found[-1].labels))
            found.append(level)
            if bool(chosen.all()):
                break
            track = torch.where(torch.isnan(grown), track, grown)
            track = track.masked_fill(chosen, torch.nan)
            chosen = chosen | self._selected(track)
        return found

    def _selected(self, scores: Tensor) -> Tensor:
        n_left = (~torch.isnan(scores)).sum(1)
        few = torch.tensor(LAST_WORDS, dtype=torch.float64, device=scores.device)
        percentiles = torch.where(
            n_left < len(few), few[n_left.clamp(max=len(few) - 1)], self.percentile
        )
        return highest(scores.abs() if self.absolute else scores, percentiles)


class Intervals:
    """Scores of intervals of positions, each asked for once.

    Parameters
    ----------
    scorer
        Of unions of positions.
    seeds
        Scores of single positions, which are known, ``(batch, positions, classes)``.
    """

    def __init__(self, scorer: Scorer, seeds: Tensor) -> None:
        self.scorer = scorer
        self.n_positions = seeds.shape[1]
        rows, positions = torch.ones_like(seeds[:, :, 0], dtype=torch.bool).nonzero(as_tuple=True)
        self._keys = self._key(rows, positions, positions)
        self._scores = seeds.flatten(0, 1)

    def scores(self, rows: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
        """Return the scores of intervals, ``(intervals, classes)``, by one call for new ones.

        Parameters
        ----------
        rows
            Of the batch, int64.
        starts, stops
            First and last position.
        """
        keys = self._key(rows, starts, stops)
        wanted = torch.unique(keys)
        new = wanted[~torch.isin(wanted, self._keys)]
        if len(new):
            self._ask(new)
        return self._scores[torch.searchsorted(self._keys, keys)]

    def _ask(self, keys: Tensor) -> None:
        ends = keys % self.n_positions**2
        first, last = ends // self.n_positions, ends % self.n_positions
        places = torch.arange(self.n_positions, device=keys.device)
        members = (places >= first[:, None]) & (places <= last[:, None])
        scores = self.scorer(members, keys // self.n_positions**2)
        self._keys, order = torch.cat([self._keys, keys]).sort()
        self._scores = torch.cat([self._scores, scores])[order]

    def _key(self, rows: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
        """Return one number for each interval, ascending with its row."""
        return (rows * self.n_positions + starts) * self.n_positions + stops


def _scored(
    labels: Tensor, intervals: Intervals, drive: Tensor, *, has_candidates: bool
) -> tuple[Level, Tensor]:
    """Return components and their scores, and the scores of positions that could join them."""
    n_positions = labels.shape[1]
    is_there = present(labels, int(labels.max()) + 1)
    rows, ids = is_there.nonzero(as_tuple=True)
    starts, stops = _ends(labels, is_there, rows, ids)
    before, after = starts - 1, stops + 1
    has_before = (before >= 0) & has_candidates
    has_after = (after < n_positions) & has_candidates
    asked = intervals.scores(
        torch.cat([rows, rows[has_before], rows[has_after]]),
        torch.cat([starts, before[has_before], starts[has_after]]),
        torch.cat([stops, stops[has_before], after[has_after]]),
    )
    own, with_before, with_after = torch.split(
        asked, [len(rows), len(rows[has_before]), len(rows[has_after])]
    )
    scores = own.new_full((*is_there.shape, own.shape[1]), torch.nan)
    scores[rows, ids] = own
    driven = driving(own, drive, rows)
    grown = driven.new_full(labels.shape, torch.nan)
    # the component before a position writes first, and that after it counts
    of_after = driving(with_after, drive, rows[has_after]) - driven[has_after]
    grown[rows[has_after], after[has_after]] = of_after
    of_before = driving(with_before, drive, rows[has_before]) - driven[has_before]
    grown[rows[has_before], before[has_before]] = of_before
    return Level(labels, scores), grown


def _ends(labels: Tensor, is_there: Tensor, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last position of components."""
    places = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    empty = torch.zeros_like(is_there, dtype=torch.int64)
    first = empty.scatter_reduce(1, labels, places, "amin", include_self=False)
    last = empty.scatter_reduce(1, labels, places, "amax", include_self=False)
    return first[rows, ids], last[rows, ids]


def _renamed(level: Level, labels: Tensor) -> Level:
    """Return a level whose components go by other labels."""
    names = torch.zeros_like(level.is_there, dtype=torch.int64).scatter(1, level.labels, labels)
    rows, ids = level.is_there.nonzero(as_tuple=True)
    shape = (len(labels), int(labels.max()) + 1, level.scores.shape[2])
    scores = level.scores.new_full(shape, torch.nan)
    scores[rows, names[rows, ids]] = level.scores[rows, ids]
    return Level(labels, scores)
