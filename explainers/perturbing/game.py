"""What is explained, as a function of which features are there: a game of features."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from explainers.perturbing.forward import outputs_at
from explainers.sampling import chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.features import Partition
    from explainers.perturbing.fills import Fill
    from explainers.targets import Target
    from explainers.trace import Trace

Space = Literal["logit", "probability"]
"""Whether outputs are explained as they are, or behind a softmax."""


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
        every = torch.arange(trace.n_rows, device=trace.inputs.device)
        self.rows = every if rows is None else rows
        """Of the batch that are players here."""
        self.partition = partition.of_rows(self.rows)
        self.n_features = max(self.partition.counts)
        self.space = space
        self._trace, self._fill = trace, fill
        self._inputs = trace.inputs if rows is None else trace.inputs[rows]
        self._weights = trace.cotangent(target)[self.rows]

    @property
    def n_rows(self) -> int:
        """Samples."""
        return len(self.rows)

    @property
    def is_random(self) -> bool:
        """Whether what stands for absent features is drawn, the same for those of a replicate."""
        return self._fill.is_random

    @cached_property
    def full(self) -> Tensor:
        """Value of all features together: of the sample itself, ``(rows,)``; costs nothing new."""
        return self._weighed(self._trace.output[self.rows], self._weights)

    @cached_property
    def empty(self) -> Tensor:
        """Value of no feature, ``(rows,)``: the mean over a background, if that is filled in."""
        return self._fill.empty(self)

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
            Of each coalition, int64: those with the same number see the same draw of what is
            random in the fill. Each its own by default.

        Returns
        -------
        Tensor
            ``(rows, coalitions)``.
        """
        here = torch.arange(self.n_rows, device=self._inputs.device) if rows is None else rows
        found = self._inputs.new_empty(len(here), len(coalitions))
        if replicates is None:
            replicates = torch.arange(len(coalitions))
        for some_rows, some in self._pieces(len(here), len(coalitions)):
            which = here[some_rows]
            values = self._evaluated(coalitions[some], which, replicates[some])
            found[some_rows, some] = values.T
        return found

    def _pieces(self, n_rows: int, n_coalitions: int) -> Iterator[tuple[slice, slice]]:
        limit = chunks.rows_at_once(self._inputs)
        for rows in chunks.pieces(n_rows, limit):
            at_once = max(1, limit // max(1, rows.stop - rows.start))
            for some in chunks.pieces(n_coalitions, at_once):
                yield rows, some

    def _evaluated(self, coalitions: Tensor, rows: Tensor, replicates: Tensor) -> Tensor:
        """Return values, ``(coalitions, rows)``, by one forward pass."""
        with torch.inference_mode():
            there = self.partition.of_rows(rows).members(coalitions)
            absent = self._fill.at(self.rows[rows], replicates)
            points = torch.where(there, self._inputs[rows], absent)
            every = self.rows[rows].repeat(len(coalitions))
            outputs = outputs_at(self._trace, points.flatten(0, 1), every)
            weighed = self._weighed(
                outputs.view(len(coalitions), len(rows), -1), self._weights[rows]
            )
        return weighed.clone()

    def _weighed(self, outputs: Tensor, weights: Tensor) -> Tensor:
        if self.space == "probability":
            outputs = outputs.softmax(-1)
        return (outputs * weights).sum(-1)


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
    counts = torch.tensor(partition.counts, device=trace.inputs.device)
    for n_features in sorted(set(partition.counts)):
        rows = (counts == n_features).nonzero().flatten()
        yield Game(trace, target, partition, fill, rows=rows, space=space)
