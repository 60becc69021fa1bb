"""What a rule decides about the neurons of a layer, and how logits round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

PAIRED, Z, FALLBACK, TOO_FEW, ONE = range(5)
"""By what the neurons of a class were selected."""
HOW = ("paired", "z", "fallback", "too few samples", "one sample")
"""The same in words."""


LEAST = 64
"""Effect below which there is none, in units of the rounding of the largest logit."""


@dataclass(frozen=True, eq=False)
class Decision:
    """Tensors ``(classes, neurons)`` as in `explainers.causal.selection.Selection`."""

    statistic: Tensor
    p: Tensor
    q: Tensor
    sign: Tensor
    is_borderline: Tensor
    margin: Tensor
    replicates: Tensor
    """int8 ``(replicates, classes, neurons)``."""
    how: Tensor
    """int8 ``(classes,)``."""


def nothing(largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Return up to where a mean effect is none, ``64 eps max|Y|``: it may be rounding alone."""
    return LEAST * torch.finfo(dtype).eps * largest


def rounding(largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much kernels may move an effect, ``32 eps max|Y|``.

    Batches of other sizes sum in another order. Between batches of 1 and of 8 no logit of seven
    networks of torchvision (ResNet18 to ConvNeXt-T, float32) moved by more than 7 eps of the
    largest, and an effect is the difference of two. It is less than what counts as no effect, so
    that no neuron without one is in doubt.
    """
    return 32 * torch.finfo(dtype).eps * largest


def adjusted(p: Tensor, n_all: Tensor) -> Tensor:
    """Return p values adjusted by Benjamini and Hochberg (1995), at most 1.

    Parameters
    ----------
    p
        ``(classes, neurons)``; infinity for those that are no tests.
    n_all
        How many tests each class counts, int64 ``(classes,)``.
    """
    ordered, order = p.sort(-1)
    ranks = torch.arange(1, p.shape[-1] + 1, device=p.device)
    steps = ordered * n_all.clamp(min=1)[:, None] / ranks
    least = steps.flip(-1).cummin(-1).values.flip(-1) if steps.numel() else steps
    return torch.empty_like(p).scatter_(-1, order, least).clamp_(max=1.0)


def stepped_up(magnitude: Tensor, thresholds: Tensor) -> Tensor:
    """Return which magnitudes the step-up procedure selects: bool, the same shape.

    The k largest for the greatest k at which the k-th largest reaches the k-th threshold.

    Parameters
    ----------
    magnitude
        Not negative, ``(..., neurons)``.
    thresholds
        Positive, descending, broadcast with it.
    """
    ordered = magnitude.sort(-1, descending=True).values
    ranks = torch.arange(1, magnitude.shape[-1] + 1, device=magnitude.device)
    n_selected = ((ordered >= thresholds) * ranks).amax(-1, keepdim=True)
    least = ordered.gather(-1, (n_selected - 1).clamp(min=0))
    return (magnitude >= least) & (n_selected > 0)
