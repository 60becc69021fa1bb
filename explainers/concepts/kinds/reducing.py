"""Sum, maximum and the first place of the maximum, of many values at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.concepts.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor


def reduced(amounts: Tensor, n_axes: int) -> Scores:
    """Return the scores of concepts.

    Parameters
    ----------
    amounts
        ``(batch, *concepts, *positions)``, in any memory layout.
    n_axes
        How many axes hold concepts.
    """
    batch, behind = len(amounts), 1 + n_axes
    n = amounts.shape[1:behind].numel()
    if amounts.ndim == behind:
        alone = amounts.reshape(batch, n)
        return Scores(alone, alone, torch.zeros_like(alone, dtype=torch.int64))
    flat = amounts.flatten(behind)
    peak, position = flat.max(-1)
    return Scores(
        flat.sum(-1).reshape(batch, n), peak.reshape(batch, n), position.reshape(batch, n)
    )
