"""Scores of unions of cells: by contextual decomposition, or by forwards without the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch

from explainers.inference import outside_inference_mode
from explainers.perturbing.forward import outputs_at
from explainers.sampling import chunks
from explainers.sampling.forward_chunks import as_memory_allows, forward_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.decomposition import Decomposition
    from explainers.features import Partition
    from explainers.trace import Trace

Score = Literal["cd", "build_up", "occlusion", "break_down"]
SCORES: tuple[str, ...] = get_args(Score)


class Scorer(Protocol):
    """A score for each class of a union of cells of a sample."""

    def __call__(self, members: Tensor, rows: Tensor) -> Tensor:
        """Return the scores of unions, ``(unions, classes)``.

        Parameters
        ----------
        members
            Which cells are in each union, bool ``(unions, cells)``.
        rows
            Of the batch, one for each union, int64, ascending.
        """


MOST_MEMBERS = 2**27
"""Cells of unions that are written out at once: more are asked for by several calls."""


def asked(scorer: Scorer, rows: Tensor, members: Callable[[slice], Tensor]) -> Tensor:
    """Return the scores of unions, ``(unions, classes)``: by one call, unless they are very many.

    Parameters
    ----------
    scorer
        Of unions.
    rows
        Of the batch, one for each union, ascending.
    members
        Called with a slice of the unions; returns which cells are in them.
    """
    n_cells = members(slice(0, 0)).shape[1]
    limit = max(1, MOST_MEMBERS // n_cells)
    found = [scorer(members(some), rows[some]) for some in chunks.pieces(len(rows), limit)]
    return found[0] if len(found) == 1 else torch.cat(found)


def seeds(scorer: Scorer, n_rows: int, n_cells: int, device: torch.device) -> Tensor:
    """Return the scores of single cells, ``(batch, cells, classes)``, by one call."""
    cells = torch.arange(n_cells, device=device)
    rows = torch.arange(n_rows, device=device).repeat_interleave(n_cells)
    own = cells.repeat(n_rows)
    scores = asked(scorer, rows, lambda some: own[some, None] == cells)
    return scores.view(n_rows, n_cells, -1)


def driving(scores: Tensor, drive: Tensor, rows: Tensor) -> Tensor:
    """Return the one score that drives growth of each union, ``(unions,)``.

    Parameters
    ----------
    scores
        Of each class, ``(unions, classes)``.
    drive
        Weights of the classes, ``(batch, classes)``.
    rows
        Of the batch, one for each union.
    """
    return (scores * drive[rows]).sum(1)


MOST_VALUES = 2**24
"""Outputs of unions that are held at once where one number of each union is wanted."""


@dataclass(frozen=True, eq=False)
class Driven:
    """One score of each union, of a target among very many outputs: a unit of a layer."""

    scorer: Scorer
    weights: Tensor
    """Of the outputs, ``(batch, outputs)``."""

    def __call__(self, members: Tensor, rows: Tensor) -> Tensor:
        """Return the target's score, ``(unions, 1)``."""
        limit = max(1, MOST_VALUES // self.weights.shape[1])
        found = [
            driving(self.scorer(members[some], rows[some]), self.weights, rows[some])
            for some in chunks.pieces(len(rows), limit)
        ]
        return torch.cat([self.weights.new_empty(0), *found])[:, None]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the values of cells lie in samples."""

    partition: Partition

    def masks(self, members: Tensor, rows: Tensor) -> Tensor:
        """Return which values are in unions, bool ``(unions, ...)``, broadcasting against rows."""
        cells = self.partition.cells
        flat = cells.flatten(1)
        flat = flat.expand(len(members), -1) if len(flat) == 1 else flat[rows]
        return members.gather(1, flat).view(len(members), *cells.shape[1:])


@dataclass(frozen=True, eq=False)
class Decomposed:
    """Relevant part of the output where the cells are relevant (Singh et al., arXiv:1806.05337)."""

    decomposition: Decomposition
    places: Places

    def __call__(self, members: Tensor, rows: Tensor) -> Tensor:
        """Return the relevant parts of the outputs."""
        return self.decomposition.relevant(self.places.masks(members, rows), rows)


@dataclass(frozen=True, eq=False)
class Forwards:
    """Outputs where some cells are the sample's own and others at a baseline.

    ``build_up`` is the output with the cells alone, ``occlusion`` minus the output without them,
    ``break_down`` the output of the sample minus that.
    """

    trace: Trace
    places: Places
    baseline: Tensor
    """``(1 | batch, ...)``."""
    kind: Score

    @outside_inference_mode
    def __call__(self, members: Tensor, rows: Tensor) -> Tensor:
        """Return the scores by one forward pass for each union."""
        kept = members if self.kind == "build_up" else ~members
        outputs = as_memory_allows(self.trace.network, lambda: self._outputs(kept, rows))
        if self.kind == "build_up":
            return outputs
        return -outputs if self.kind == "occlusion" else self.trace.output[rows] - outputs

    def _outputs(self, kept: Tensor, rows: Tensor) -> Tensor:
        found = self.trace.output.new_empty(len(rows), self.trace.output.shape[1])
        if not len(rows):
            return found
        limit = forward_rows(self.trace.network, self.trace.inputs, self._probe)
        for some in chunks.pieces(len(rows), limit):
            found[some] = self._at(kept[some], rows[some])
        return found

    def _at(self, kept: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            own = self.trace.inputs[rows]
            others = self.baseline if len(self.baseline) == 1 else self.baseline[rows]
            points = torch.where(self.places.masks(kept, rows), own, others.to(own))
        with torch.inference_mode():
            return outputs_at(self.trace, points, rows)

    def _probe(self, n_rows: int) -> None:
        rows = torch.zeros(n_rows, dtype=torch.int64, device=self.trace.inputs.device)
        n_cells = max(self.places.partition.counts)
        self._at(rows.new_ones(n_rows, n_cells, dtype=torch.bool), rows)
