"""Random numbers that follow from seed, explainer, purpose and sample, and from nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from explainers.base import Samples
from explainers.sampling.counted import seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


class RandomRows(ABC):
    """Random numbers for the rows of a batch; a sample has the same in any batch."""

    samples: Samples | None
    """Who the rows are; None where a row is its number."""
    seed: int
    namespace: str

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Of the batch."""

    @property
    @abstractmethod
    def numbers(self) -> tuple[torch.dtype, torch.device]:
        """Type and device of random numbers."""

    def generator(self, purpose: str, row: int) -> torch.Generator:
        """Return a generator that depends on seed, namespace, purpose and the row's sample only."""
        return _generator(self._seed_of(purpose, str(self._indices[row])))

    def shared_generator(self, purpose: str) -> torch.Generator:
        """Return a generator that depends on seed, namespace and purpose; for what rows share."""
        return _generator(self.shared_seed(purpose))

    def shared_seed(self, purpose: str) -> int:
        """Return the seed of `shared_generator`, as a key for what is drawn once."""
        return self._seed_of(purpose, "all")

    def _seed_of(self, purpose: str, who: str) -> int:
        text = "\0".join((str(self.seed), self.namespace, purpose, who))
        return seed_of(text)

    def noise(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, ``(batch, *shape)``, each row from its generator."""
        return self._drawn(torch.randn, purpose, shape)

    def uniform(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return numbers from [0, 1), ``(batch, *shape)``, each row from its generator."""
        return self._drawn(torch.rand, purpose, shape)

    def who(self) -> Samples:
        """Return who the rows are, by their numbers outside a data set."""
        if self.samples is not None:
            return self.samples
        rows = torch.arange(self.n_rows)
        return Samples(rows, torch.full_like(rows, -1))

    def _drawn(self, draw: Callable[..., Tensor], purpose: str, shape: Sequence[int]) -> Tensor:
        dtype, device = self.numbers
        drawn = torch.empty(self.n_rows, *shape, dtype=dtype)
        for row, numbers in enumerate(drawn):
            draw(*shape, generator=self.generator(purpose, row), out=numbers)
        return drawn.to(device)

    @cached_property
    def _indices(self) -> list[int]:
        indices: list[int] = self.who().index.tolist()
        return indices


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
