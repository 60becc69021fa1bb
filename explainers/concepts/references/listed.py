"""The reference samples of a layer's concepts, and which of them a batch has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import Samples


@dataclass(frozen=True)
class Entries:
    """Some references: a sample, one of its concepts and the most relevant neuron of that."""

    row: Tensor
    """Which row of a batch has the sample; int64 on the host, ``(references,)``, as all here."""
    sample: Tensor
    concept: Tensor
    rank: Tensor
    """Place of the sample among the concept's, best first."""
    position: Tensor
    """Of the neuron, flat and row-major among the concept's positions."""


@dataclass(frozen=True, eq=False)
class Listed:
    """The samples that show each concept of a layer best."""

    sample: Tensor
    """Index in the data set, -1 where a list is shorter; int64, ``(rank, concept)``."""
    position: Tensor
    """Where the concept is most relevant in it; int64, ``(rank, concept)``."""

    def briefer(self) -> Listed:
        """Return the samples of one concept alone, the first that has any."""
        first = (self.sample >= 0).any(0).long().argmax()
        is_other = torch.arange(self.sample.shape[1]) != first
        return replace(self, sample=self.sample.masked_fill(is_other, -1))

    @property
    def samples(self) -> Tensor:
        """All of them, ascending, each once."""
        found: Tensor = torch.unique(self.sample[self.sample >= 0])
        return found

    @cached_property
    def _entries(self) -> tuple[Tensor, ...]:
        """Sample, concept, rank and position of every entry, by concept and then rank."""
        concept, rank = (self.sample.T >= 0).nonzero().unbind(1)
        return self.sample[rank, concept], concept, rank, self.position[rank, concept]

    def among(self, samples: Samples) -> Entries:
        """Return the references that a batch has, ordered by row, concept and rank."""
        index = samples.index.cpu()
        order = index.argsort()
        sample, *others = self._entries
        place = torch.searchsorted(index[order], sample).clamp(max=max(0, len(index) - 1))
        row = order[place]
        found = (index[row] == sample).nonzero()[:, 0]
        found = found[row[found].argsort(stable=True)]
        return Entries(row[found], *(part[found] for part in (sample, *others)))
