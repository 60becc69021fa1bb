"""What is explained, as a function of which features are there: a game of features."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from explainers.perturbing.valuation import Space, Valuation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.features import Partition
    from explainers.perturbing.fills import Fill
    from explainers.perturbing.valuation import Which
    from explainers.targets import Target
    from explainers.trace import Trace

__all__ = ["Game", "Space", "games"]


class Game:
    """Value of every coalition of features, for some rows of a batch with as many features each.

    A coalition's value is what is explained where its features are the sample's own and all others
    are filled in.

    Parameters
    ----------
    trace
        Of the samples.
    target
        What is explained.
    partition
        The features.
    fill
        What stands for absent features.
    rows
        Of the batch, int64; None for all. They have as many features each: see `games`.
    space
        Of the outputs.
    """

    def __init__(
        self,
        trace: Trace,
        target: Target,
        partition: Partition,
        fill: Fill,
        *,
        rows: Tensor | None = None,
        space: Space = "logit",
    ) -> None:
        self.valuation = Valuation(trace, target, rows=rows, space=space)
        self.rows = self.valuation.rows
        """Of the batch that are players here."""
        self.partition = partition if rows is None else partition.of_rows(rows)
        self.n_features = max(self.partition.counts)
        self.fill = fill
        """What stands for absent features."""
        self._target, self._whole = target, partition

    @property
    def n_rows(self) -> int:
        """Samples."""
        return len(self.rows)

    @property
    def is_random(self) -> bool:
        """Whether what stands for absent features is drawn, the same for those of a replicate."""
        return self.fill.is_random

    @property
    def full(self) -> Tensor:
        """Value of all features together: of the sample itself, ``(rows,)``; costs nothing new."""
        return self.valuation.full

    @cached_property
    def empty(self) -> Tensor:
        """Value of no feature, ``(rows,)``: the mean over a background, if that is filled in."""
        return self.fill.empty(self.valuation)

    def of_rows(self, rows: Tensor) -> Game:
        """Return the game of some of the rows, by their positions here; draws are the same."""
        valuation = self.valuation
        return Game(
            valuation.trace,
            self._target,
            self._whole,
            self.fill,
            rows=self.rows[rows],
            space=valuation.space,
        )

    def values(
        self,
        coalitions: Tensor,
        rows: Tensor | None = None,
        replicates: Tensor | None = None,
    ) -> Tensor:
        """Return the values of coalitions, each one forward pass of each row.

        Parameters
        ----------
        coalitions
            Which features are there, bool ``(coalitions, features)``; the same for all rows.
        rows
            Positions among this game's rows, int64; None for all.
        replicates
            Of each coalition, int64, on the CPU: those with the same number see the same draw of
            what is random in the fill. Each its own by default.

        Returns
        -------
        Tensor
            ``(rows, coalitions)``.
        """
        coalitions = coalitions.to(self.rows.device)
        draws = torch.arange(len(coalitions)) if replicates is None else replicates.cpu()

        def make(which: Which, some: slice) -> Tensor:
            there = self.partition.members(coalitions[some], which)
            absent = self.fill.at(self.rows[which], draws[some])
            return torch.where(there, self.valuation.inputs[which], absent)

        return self.valuation.values(len(coalitions), make, rows)


def games(
    trace: Trace,
    target: Target,
    partition: Partition,
    fill: Fill,
    *,
    space: Space = "logit",
) -> Iterator[Game]:
    """Yield a game for each number of features among the rows; one, where all have as many."""
    if partition.is_shared or len(set(partition.counts)) == 1:
        yield Game(trace, target, partition, fill, space=space)
        return
    counts = torch.tensor(partition.counts)
    for n_features in sorted(set(partition.counts)):
        rows = (counts == n_features).nonzero().flatten()
        yield Game(trace, target, partition, fill, rows=rows, space=space)
