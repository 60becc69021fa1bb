"""Two columns of scores of the same samples: how far apart they are, and whether by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EXACT = 50
"""Up to so many differences the signed rank's distribution is counted; beyond, it is normal."""


@dataclass(frozen=True)
class Paired:
    """Comparison of `a` to `b` on the samples for which both have a score."""

    n: int
    """Samples with both scores."""
    difference: float
    """Mean of ``a - b``."""
    low: float
    """Lower end of the interval of that mean (Student's t)."""
    high: float
    """Upper end."""
    p: float
    """Of Wilcoxon's signed rank test, two-sided."""
    delta: float
    """Cliff's delta: how much more often a score of `a` is above one of `b` than below, from -1 to
    1, over all pairs of samples."""
    dominance: float
    """The same over pairs of scores of one sample: the share of samples at which `a` is above,
    less the share at which it is below."""

    def turned(self) -> Paired:
        """Return the comparison of `b` to `a`."""
        return Paired(
            n=self.n,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            p=self.p,
            delta=-self.delta,
            dominance=-self.dominance,
        )


def paired(a: ArrayLike, b: ArrayLike, *, alpha: float = 0.05) -> Paired:
    r"""Compare two columns of scores, sample by sample.

    Samples at which either is NaN or infinite are left out. The interval is
    :math:`\bar d \pm t_{1-\alpha/2,\,n-1}\, s_d/\sqrt n`, NaN for one sample.

    Parameters
    ----------
    a, b
        Scores, ``(samples,)`` each.
    alpha
        One less the confidence of the interval.

    Raises
    ------
    ValueError
        If the columns differ in length.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"got columns of shapes {first.shape} and {second.shape}, expected two of one length: "
            "pair the scores by sample first"
        )
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    difference = first - second
    n = len(difference)
    if not n:
        return Paired(0, *(math.nan,) * 6)
    mean = float(difference.mean())
    half = math.nan
    if n > 1:
        error = float(difference.std(ddof=1)) / math.sqrt(n)
        half = float(special.stdtrit(n - 1, 1 - alpha / 2)) * error
    return Paired(
        n=n,
        difference=mean,
        low=mean - half,
        high=mean + half,
        p=wilcoxon(difference),
        delta=cliff(first, second),
        dominance=float(np.sign(difference).mean()),
    )


def wilcoxon(difference: ArrayLike) -> float:
    r"""Return the two-sided p-value of Wilcoxon's signed rank test.

    Zero differences are dropped, as Wilcoxon does; equal ones share their mean rank. Up to
    `EXACT` differences the distribution of the sum of positive ranks over all :math:`2^n`
    assignments of signs is counted (exact with ties too); beyond, it is taken as normal with the
    variance :math:`\tfrac14\sum_i r_i^2`, which holds the correction for ties, and without a
    correction for continuity. Without any difference, p is 1.

    References
    ----------
    F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin, 1945,
    doi:10.2307/3001968.
    """
    values = np.asarray(difference, np.float64)
    values = values[np.isfinite(values) & (values != 0)]
    if not len(values):
        return 1.0
    rank = ranked(np.abs(values))
    positive = float(rank[values > 0].sum())
    if len(values) <= EXACT:
        return _counted(rank, positive)
    spread = math.sqrt(float(np.square(rank).sum())) / 2
    z = (positive - float(rank.sum()) / 2) / spread
    return float(2 * special.ndtr(-abs(z)))


def cliff(a: ArrayLike, b: ArrayLike) -> float:
    r"""Return Cliff's delta, :math:`P(a > b) - P(a < b)` over all pairs of a value of each.

    From -1 (all of `a` below all of `b`) to 1; 0 where neither tends to be above. Sorting makes it
    :math:`O(n \log n)`. NaN if either is empty.

    References
    ----------
    N. Cliff, "Dominance statistics: ordinal analyses to answer ordinal questions", Psychological
    Bulletin, 1993, doi:10.1037/0033-2909.114.3.494.
    """
    first, second = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    if not len(first) or not len(second):
        return math.nan
    below = int(np.searchsorted(second, first, side="left").sum())
    not_above = int(np.searchsorted(second, first, side="right").sum())
    n_pairs = len(first) * len(second)
    return (below + not_above - n_pairs) / n_pairs


def ranked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value from 1, equal values sharing their mean rank, ``(n,)``."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], len(values))
    rank = np.empty(len(values))
    rank[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return rank


def _counted(rank: NDArray[np.float64], positive: float) -> float:
    """Return the share of all assignments of signs whose sum is as far from the middle."""
    doubled = np.rint(2 * rank).astype(np.int64)  # mean ranks are whole or halves
    total = int(doubled.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for step in doubled.tolist():
        ways[step:] += ways[: total + 1 - step].copy()
    sums = np.arange(total + 1)
    extreme = np.abs(2 * sums - total) >= abs(4 * positive - total) - 1e-9
    return min(1.0, float(ways[extreme].sum() / ways.sum()))
