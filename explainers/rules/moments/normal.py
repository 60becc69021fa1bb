"""The standard normal: its tail, and how far out that is nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def below(at: Tensor) -> Tensor:
    """Return ``Phi(at)``."""
    # `ndtr` takes several times as long, and is no better in the tails
    return torch.erfc(at * -math.sqrt(0.5)).mul_(0.5)


def density(at: Tensor) -> Tensor:
    """Return ``phi(at)``."""
    return torch.exp(at.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))


def far(dtype: torch.dtype) -> float:
    """Return standard deviations beyond which density and tail are exactly zero in a dtype."""
    return 40.0 if dtype == torch.float64 else 15.0
