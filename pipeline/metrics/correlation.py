"""Correlation of many pairs at once, how sure it is, and where there is none."""

from __future__ import annotations

import torch
from torch import Tensor

_UNITS = 16.0
"""Units in the last place below which values count as the same: passes in other chunks, and sums
in another order, differ by a few."""


def pearson(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return Pearson's correlation over the last axis and its Monte-Carlo standard error.

    With the standardised values u and v of n pairs,

    .. math:: r = \frac{1}{n} \sum_i u_i v_i, \quad
        s^2 = \frac{1}{n (n - 1)} \sum_i \Big( u_i v_i - \frac{r}{2} (u_i^2 + v_i^2) \Big)^2:

    the spread of what each pair adds to the correlation (the infinitesimal jackknife; Efron 1982,
    doi:10.1137/1.9781611970319), which supposes no distribution. Values that are all the same, up
    to rounding, correlate with nothing: NaN.

    Parameters
    ----------
    a, b
        ``(..., n)``.
    a_scale, b_scale
        Size of the numbers that the values are sums or differences of, ``(...)``, in the
        precision that they were computed in.

    Returns
    -------
    tuple
        Correlation and error, float64 ``(...)`` each.
    """
    varies = _varies(a, a_scale) & _varies(b, b_scale)
    u, v = _standardised(a.double()), _standardised(b.double())
    found = (u * v).mean(dim=-1).clamp(-1.0, 1.0)
    n = a.shape[-1]
    spread = (u * v - 0.5 * found[..., None] * (u.square() + v.square())).square().sum(dim=-1)
    error = (spread / max(1, n * (n - 1))).sqrt()
    return found.where(varies, torch.nan), error.where(varies, torch.nan)


def rounding(scale: Tensor) -> Tensor:
    """Return by how much numbers of a size may differ and still count as the same."""
    return _UNITS * torch.finfo(scale.dtype).eps * scale


def _varies(values: Tensor, scale: Tensor) -> Tensor:
    spread = values.amax(dim=-1) - values.amin(dim=-1)
    return spread > rounding(scale)


def _standardised(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=-1, keepdim=True)
    # squares of small values are no zeros
    largest = centred.abs().amax(dim=-1, keepdim=True)
    centred = centred / largest.where(largest > 0, 1.0)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return centred / deviation.where(deviation > 0, 1.0)
