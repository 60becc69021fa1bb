"""Draws of noise: few numbers for each draw where there are few, and values made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.sampling.randomness import RandomRows


@dataclass(frozen=True, eq=False)
class Draws(ABC):
    """A distribution of inputs.

    What is drawn for a sample follows from seed, namespace, purpose and the sample. It can be kept
    as codes, which for a factor of few rows, or for given rows, are far smaller than the values.
    """

    @abstractmethod
    def codes(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return what values are made of, ``(batch, draws, ...)``."""

    @abstractmethod
    def values(self, codes: Tensor) -> Tensor:
        """Return values ``(..., *shape)`` of codes with any leading axes ``(...)``."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the same distribution elsewhere, of numbers of another type."""
        moved = (getattr(self, each.name).to(device, dtype) for each in fields(self))
        return type(self)(*moved)


@dataclass(frozen=True, eq=False)
class Independent(Draws):
    """Gaussians, one for each value."""

    mean: Tensor
    """``(*shape)``."""
    deviation: Tensor
    """Standard deviations, ``(*shape)``."""

    def codes(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return standard normal numbers, ``(batch, draws, *shape)``."""
        return rows.noise(purpose, (n_draws, *self.mean.shape))

    def values(self, codes: Tensor) -> Tensor:
        """Return the mean plus scaled codes."""
        return torch.addcmul(self.mean, codes, self.deviation)


@dataclass(frozen=True, eq=False)
class Covarying(Draws):
    """A Gaussian whose covariance is the product of a factor with itself."""

    mean: Tensor
    """``(*shape)``."""
    factor: Tensor
    """``(K, *shape)``."""

    def codes(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return standard normal numbers, ``(batch, draws, K)``."""
        return rows.noise(purpose, (n_draws, len(self.factor)))

    def values(self, codes: Tensor) -> Tensor:
        """Return the mean plus the factor's rows, weighted by the codes."""
        deviation: Tensor = torch.tensordot(codes, self.factor, 1)
        return self.mean + deviation


@dataclass(frozen=True, eq=False)
class Uniform(Draws):
    """Uniform between two bounds, each value alone."""

    low: Tensor
    """``(*shape)``."""
    high: Tensor
    """``(*shape)``."""

    def codes(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return numbers in [0, 1), ``(batch, draws, *shape)``."""
        return rows.uniform(purpose, (n_draws, *self.low.shape))

    def values(self, codes: Tensor) -> Tensor:
        """Return values between the bounds."""
        return torch.addcmul(self.low, codes, self.high - self.low)


@dataclass(frozen=True, eq=False)
class Given(Draws):
    """Rows of real data, each as likely as any other."""

    rows: Tensor
    """``(n, *shape)``."""

    def codes(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return positions of rows, int64, ``(batch, draws)``."""
        drawn = rows.uniform(purpose, (n_draws,)).double() * len(self.rows)
        return drawn.long().clamp(max=len(self.rows) - 1)

    def values(self, codes: Tensor) -> Tensor:
        """Return the rows at positions."""
        return self.rows[codes]
