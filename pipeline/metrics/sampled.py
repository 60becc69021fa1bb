"""What metrics draw and count for each sample, whatever batch it is in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from explainers.sampling import counted

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.trace import Trace


def seeds(trace: Trace, purpose: str) -> Tensor:
    """Return a seed for each sample, int64 ``(batch,)``."""
    index = trace.who().index.to(trace.inputs.device)
    return counted.word(torch.full_like(index, trace.shared_seed(purpose)), index)


def normal(streams: Tensor, n_numbers: int, dtype: torch.dtype) -> Tensor:
    """Return standard normal numbers of each stream of `counted`, ``(streams, numbers)``.

    Two of two uniform numbers each (Box and Muller 1958, doi:10.1214/aoms/1177706645).
    """
    half = -(-n_numbers // 2)
    exact = torch.promote_types(dtype, torch.float32)
    uniform = counted.uniform(streams, 2 * half, exact)
    radius = uniform[:, :half].neg().log1p_().mul_(-2.0).sqrt_()
    angle = uniform[:, half:] * (2.0 * math.pi)
    both = torch.cat([angle.cos() * radius, angle.sin_() * radius], dim=1)
    return both[:, :n_numbers].to(dtype)


def labels(trace: Trace) -> Tensor:
    """Return the class of each sample, -1 where outputs are not compared with classes."""
    classes = trace.who().label.to(trace.inputs.device)
    has_classes = trace.parent is None and trace.output.shape[1] > 1
    return classes if has_classes else torch.full_like(classes, -1)


def hits(output: Tensor, classes: Tensor) -> Tensor:
    """Return 1 where the largest output is that of the class, else 0; NaN without a class."""
    dtype = torch.promote_types(output.dtype, torch.float32)
    found = (output.argmax(dim=1) == classes).to(dtype)
    return found.where(classes >= 0, torch.nan)
