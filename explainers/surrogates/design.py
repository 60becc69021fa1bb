"""The coalitions that linear models are fitted to."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@functools.lru_cache(maxsize=8)
def coalitions(seed: int, n_coalitions: int, n_features: int) -> Tensor:
    """Return coalitions in which each feature is or is not by the toss of a coin, on the CPU.

    Bool ``(coalitions, features)``; the n-th does not depend on how many there are. It is kept:
    do not change it.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n_coalitions, n_features, generator=generator) < 0.5
