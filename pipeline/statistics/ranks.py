"""Orders of several contestants: whether two agree, and what many of them say together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CHUNK = 4096
"""Samples whose pairs of contestants are in memory at a time."""


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the rank of each value within its row, 1 for the least, ties sharing the mean rank.

    Parameters
    ----------
    values
        ``(blocks, contestants)``, without NaN.
    """
    rows = np.asarray(values, np.float64)
    below = (rows[:, None, :] < rows[:, :, None]).sum(axis=2)
    equal = (rows[:, None, :] == rows[:, :, None]).sum(axis=2)
    rank: NDArray[np.float64] = below + (equal + 1) / 2
    return rank


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the mean over blocks of each contestant's rank, ``(contestants,)``."""
    mean: NDArray[np.float64] = ranks(values).mean(axis=0)
    return mean


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    r"""Return Kendall's tau-b of two columns, from -1 (reversed) to 1 (the same order).

    :math:`\tau_b = \sum_{i<j} s_{ij} t_{ij} / \sqrt{\sum s_{ij}^2 \sum t_{ij}^2}` with the signs
    of the differences in either column; pairs with a NaN are left out. NaN if fewer than two
    values are known of both, or one column has no order at all.

    References
    ----------
    M. G. Kendall, "The treatment of ties in ranking problems", Biometrika, 1945,
    doi:10.1093/biomet/33.3.239.
    """
    both = np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)])
    return float(kendall_per_sample(both[:, :, None])[0, 1])


def kendall_per_sample(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over samples of Kendall's tau-b between orders of contestants.

    Parameters
    ----------
    values
        ``(judges, contestants, samples)``; NaN where a judge has no score. A pair of contestants
        counts where both judges know both; a sample that leaves nothing to compare is left out.

    Returns
    -------
    ndarray
        ``(judges, judges)``; NaN where no sample could be compared.
    """
    n_judges, n_contestants, n_samples = values.shape
    first, second = np.triu_indices(n_contestants, 1)
    total = np.zeros((n_judges, n_judges))
    count = np.zeros((n_judges, n_judges))
    for start in range(0, n_samples, CHUNK):
        # (samples, judges, contestants)
        part = np.ascontiguousarray(values[:, :, start : start + CHUNK].transpose(2, 0, 1))
        gap = part[:, :, first] - part[:, :, second]
        sign = np.sign(np.nan_to_num(gap)).astype(np.float32)  # whole numbers, exact
        known = (~np.isnan(gap)).astype(np.float32)
        together = sign @ sign.transpose(0, 2, 1)
        ordered = np.abs(sign) @ known.transpose(0, 2, 1)
        scale = np.sqrt(ordered.astype(np.float64) * ordered.transpose(0, 2, 1))
        is_known = scale > 0
        total += np.divide(together, scale, out=np.zeros(scale.shape), where=is_known).sum(axis=0)
        count += is_known.sum(axis=0)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that contestants are ranked alike in all blocks."""

    n_blocks: int
    n_contestants: int
    mean_ranks: tuple[float, ...]
    """1 for the best."""
    statistic: float
    """Friedman's chi squared, corrected for ties."""
    p: float
    """Of the F statistic of Iman and Davenport, which Demsar prefers to chi squared."""
    f: float
    """That statistic."""
    critical_difference: float
    """Of Nemenyi's test: mean ranks that are further apart differ."""


def friedman(values: ArrayLike, *, alpha: float = 0.05) -> Friedman:
    r"""Test whether contestants differ over blocks; the least value ranks first.

    .. math:: \chi^2_F = \frac{(k-1)\sum_j (R_j - \frac{k+1}{2})^2\,N^2}
        {\sum_{ij} (r_{ij} - \frac{k+1}{2})^2},\qquad
        F_F = \frac{(N-1)\chi^2_F}{N(k-1)-\chi^2_F}

    The first is Friedman's statistic with the correction for ties; without ties the denominator
    is :math:`N k(k+1)(k-1)/12`.

    Parameters
    ----------
    values
        ``(blocks, contestants)`` without NaN; negate scores of which the greatest is the best.
    alpha
        Level of the critical difference.

    Raises
    ------
    ValueError
        If there are fewer than two blocks or contestants, or a value is NaN.

    References
    ----------
    J. Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006.
    R. L. Iman, J. M. Davenport, "Approximations of the critical region of the Friedman statistic",
    1980.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or min(rows.shape) < 2 or np.isnan(rows).any():
        raise ValueError(
            f"got values of shape {rows.shape}, expected at least two blocks and two contestants "
            "without NaN: leave out blocks that are not complete"
        )
    n, k = rows.shape
    rank = ranks(rows)
    mean = rank.mean(axis=0)
    spread = float(np.square(rank - (k + 1) / 2).sum())
    between = float(np.square(mean - (k + 1) / 2).sum())
    statistic = (k - 1) * n**2 * between / spread if spread > 0 else 0.0
    left = n * (k - 1) - statistic
    f = math.inf if left <= 1e-12 * n * k else (n - 1) * statistic / left
    p = 0.0 if math.isinf(f) else float(special.fdtrc(k - 1, (k - 1) * (n - 1), f))
    return Friedman(
        n_blocks=n,
        n_contestants=k,
        mean_ranks=tuple(mean.tolist()),
        statistic=statistic,
        p=p,
        f=f,
        critical_difference=critical_difference(k, n, alpha=alpha),
    )


def critical_difference(n_contestants: int, n_blocks: int, *, alpha: float = 0.05) -> float:
    r"""Return Nemenyi's critical difference of mean ranks, :math:`q_\alpha\sqrt{k(k+1)/(6N)}`.

    :math:`q_\alpha` is the upper quantile of the studentised range of `k` values with infinitely
    many degrees of freedom, divided by the root of 2.

    Raises
    ------
    ValueError
        If there are fewer than two contestants, or no blocks.

    References
    ----------
    P. B. Nemenyi, "Distribution-free multiple comparisons", 1963; J. Demsar, JMLR 7, 2006.
    """
    k, n = n_contestants, n_blocks
    if k < 2 or n < 1:
        raise ValueError(f"got {k} contestants and {n} blocks, expected at least 2 and 1")
    return _quantile_of_range(k, alpha) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


@lru_cache(maxsize=64)
def _quantile_of_range(k: int, alpha: float) -> float:
    """Return the upper quantile of the range of `k` standard normal values, by bisection."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _range_below(middle, k) < 1 - alpha else (low, middle)
    return (low + high) / 2


def _range_below(width: float, k: int) -> float:
    r"""Return :math:`k\int\varphi(z)\,(\Phi(z+w)-\Phi(z))^{k-1}\,dz`, by the trapezoidal rule."""
    # smooth and nothing at the ends, so that the rule converges beyond all powers of the step
    z = np.linspace(-9.0, 9.0, 721)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    inside = (special.ndtr(z + width) - special.ndtr(z)) ** (k - 1)
    return float(k * np.sum(density * inside) * (z[1] - z[0]))
