"""Bootstrap intervals of mean effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import State

_NORMAL = 1.959963984540054
"""Quantile of the standard normal distribution at 97.5 %."""
_STUDENT = (2.37227, 2.82250, 2.55585, 1.58953)
"""Coefficients of 1, 2, ... powers of one over the degrees of freedom, by which Student's quantile
exceeds the normal one there (Abramowitz and Stegun 1964, 26.7.5); off by 0.1 % at 3 degrees."""


def of(state: State) -> tuple[Tensor, Tensor]:
    r"""Return the ends of 95 % intervals of the mean total effect, ``(classes, neurons)``, logits.

    Expanded percentile intervals (Hesterberg 2015, doi:10.1080/00031305.2015.1089789) from the
    replicates of a tally: quantiles at :math:`\alpha` and :math:`1 - \alpha` with
    :math:`\alpha = \Phi(-\sqrt{n / (n - 1)}\, t_{0.975, n - 1})`, because plain percentiles are too
    narrow for few samples. A quantile of R ordered replicates lies at :math:`\alpha (R + 1)`,
    between neighbours on the line. NaN where nothing was tested, of fewer than two samples, and
    where :math:`\alpha (R + 1) < 1`: such quantiles are beyond what so few replicates have.
    """
    n, mean = state["reference_n"], state["te_mean"]
    n_replicates = state["drawn"].shape[1]
    unknown = mean.new_full(mean.shape, torch.nan)
    if n_replicates == 0 or mean.numel() == 0:
        return unknown, unknown
    drawn = state["drawn"][..., None]
    # a replicate that draws nothing says nothing
    means = torch.where(drawn > 0, state["drawn_te"] / drawn, mean[:, None])
    ordered = means.sort(1).values
    share = _share(n)
    is_known = (state["n"] > 0) & ((n > 1) & (share * (n_replicates + 1) >= 1))[:, None]
    low = _quantile(ordered, share * (n_replicates + 1) - 1)
    high = _quantile(ordered, (1 - share) * (n_replicates + 1) - 1)
    return torch.where(is_known, low, torch.nan), torch.where(is_known, high, torch.nan)


def _share(n: Tensor) -> Tensor:
    n = n.clamp(min=2).double()
    student = torch.full_like(n, _NORMAL)
    for power, factor in enumerate(_STUDENT, 1):
        student += factor / (n - 1) ** power
    share: Tensor = torch.special.ndtr(-(n / (n - 1)).sqrt() * student)
    return share


def _quantile(ordered: Tensor, place: Tensor) -> Tensor:
    """Return what is at a place ``(classes,)`` of values ``(classes, replicates, neurons)``."""
    place = place.clamp(0, ordered.shape[1] - 1)
    below = place.floor().long()[:, None, None].expand(-1, 1, ordered.shape[2])
    above = (below + 1).clamp(max=ordered.shape[1] - 1)
    part = (place - place.floor())[:, None]
    return torch.lerp(
        ordered.gather(1, below)[:, 0],
        ordered.gather(1, above)[:, 0],
        part.expand(-1, ordered.shape[2]),
    )
