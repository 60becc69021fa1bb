"""Columns of scores summed up, whole or by group: means, spreads, medians and intervals."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from pipeline.statistics.shares import wilson

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Summary:
    """Moments and intervals, one entry per column (and per group, in front)."""

    n: NDArray[np.int64]
    """Values that are defined."""
    n_undefined: NDArray[np.int64]
    """Values that are NaN."""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """Of the sample (n - 1)."""
    low: NDArray[np.float64]
    """Lower end of the 95 % confidence interval of the mean."""
    high: NDArray[np.float64]
    """Upper end."""
    median: NDArray[np.float64]

    def __getitem__(self, place: Any) -> Summary:
        """Return some of the entries."""
        return Summary(**{field.name: getattr(self, field.name)[place] for field in fields(self)})


def stacked(summaries: list[Summary]) -> Summary:
    """Return summaries of groups one below another: ``(columns,)`` each, or with groups."""
    parts = [
        np.concatenate([np.atleast_2d(getattr(each, field.name)) for each in summaries])
        for field in fields(Summary)
    ]
    return Summary(*parts)


def student_t(degrees: ArrayLike) -> NDArray[np.float64]:
    """Return the 97.5 % quantile of Student's t; NaN without a degree of freedom."""
    quantile: NDArray[np.float64] = special.stdtrit(np.asarray(degrees, np.float64), 0.975)
    return quantile


def summarise(values: ArrayLike) -> Summary:
    """Return the summary of each column of ``(samples, columns)``; NaN counts as undefined."""
    rows = np.asarray(values, np.float64)
    if not len(rows):
        nothing = np.zeros(rows.shape[1], np.int64)
        unknown = np.full(rows.shape[1], np.nan)
        return Summary(nothing, nothing, *(unknown,) * 5)
    return summarise_groups(rows, np.array([0]))[0]


def summarise_groups(values: NDArray[Any], starts: NDArray[np.int64]) -> Summary:
    r"""Return the summary of each column within each group, ``(groups, columns)``.

    Intervals are :math:`\bar x \pm t_{0.975,\,n-1}\,s/\sqrt n`.

    Parameters
    ----------
    values
        ``(samples, columns)``, the samples of a group one after another.
    starts
        First row of each group, ascending from 0; no group is empty.
    """
    columns = np.array(values.T, np.float64, order="C")
    sizes = np.diff(starts, append=columns.shape[1])
    undefined = np.isnan(columns)
    n = sizes - np.add.reduceat(undefined, starts, axis=1, dtype=np.int64)  # (columns, groups)
    known = np.where(undefined, 0.0, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(known, starts, axis=1) / n
        centred = np.where(undefined, 0.0, columns - np.repeat(mean, sizes, axis=1))
        variance = np.add.reduceat(centred**2, starts, axis=1) / (n - 1)
        std = np.sqrt(np.where(n > 1, variance, np.nan))  # the spread of one is not known
        half = student_t(n - 1) * std / np.sqrt(n)
    return Summary(
        n=n.T,
        n_undefined=(sizes - n).T,
        mean=mean.T,
        std=std.T,
        low=(mean - half).T,
        high=(mean + half).T,
        median=_medians(columns, starts, n).T,
    )


def macro(classes: Summary) -> Summary:
    r"""Return the mean of class means, each class weighing the same; empty classes are left out.

    Its spread is that of the means. Its interval is that of a sum of independent means of k
    classes, :math:`\pm t_{0.975,\,\nu} \sqrt V / k`,

    .. math:: V = \sum_c s_c^2 / n_c = \sum_c a_c s_c^2, \qquad
        \nu = V^2 \Big/ \sum_c \frac{(a_c s_c^2)^2}{n_c - 1}

    (Welch-Satterthwaite). Classes of one sample take the variance that is pooled of the others, so
    that :math:`a_c = 1/n_c + m (n_c - 1) / \sum_j (n_j - 1)` with m of them; of such classes alone
    no interval is known: NaN.

    Parameters
    ----------
    classes
        ``(classes, columns)``.

    References
    ----------
    F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
    Biometrics Bulletin, 1946, doi:10.2307/3002019.
    """
    freedom = np.maximum(classes.n - 1, 0)
    variance = np.where(freedom > 0, classes.std**2, 0.0)
    alone = (classes.n == 1).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = 1 / np.maximum(classes.n, 1) + alone * freedom / freedom.sum(axis=0)
        parts = weight * variance
        whole = parts.sum(axis=0)
        degrees = whole**2 / (parts**2 / np.maximum(freedom, 1)).sum(axis=0)
        error = np.sqrt(whole) / (classes.n > 0).sum(axis=0)
        half = np.where(whole == 0, 0.0, student_t(degrees) * error)
    return _of_means(classes, half, half)


def of_shares(hits: Summary) -> Summary:
    """Return the summary of columns of ones and zeros, or between, with Wilson's intervals.

    Of values in between, they are on the safe side: no spread is greater than that of hits.
    """
    low, high = wilson(hits.mean * hits.n, hits.n)
    return replace(hits, low=low, high=high)


def macro_of_shares(classes: Summary) -> Summary:
    r"""Return the mean of class shares, as `macro` does of means.

    Its interval is Wilson's of as many samples as say as much of one share,

    .. math:: n = k^2 \Big/ \max\Big(\sum_c \frac 1{n_c},\;
        \sum_c \frac{s_c^2}{n_c} \Big/ \bar p (1 - \bar p)\Big)

    of k classes: those of classes whose shares are alike, fewer where small classes vary more than
    that. It is within [0, 1] and has a width.

    Parameters
    ----------
    classes
        Of columns of ones and zeros, or between, ``(classes, columns)``.

    References
    ----------
    E. L. Korn, B. I. Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology, 1998: samples that count.
    """
    present = classes.n > 0
    size = np.maximum(classes.n, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        k = present.sum(axis=0)
        share = np.where(present, classes.mean, 0.0).sum(axis=0) / k
        alike = np.where(present, 1 / size, 0.0).sum(axis=0)
        spread = np.where(classes.n > 1, classes.std**2 / size, 0.0).sum(axis=0)
        varied = np.where(spread > 0, spread / (share * (1 - share)), 0.0)
        n = k**2 / np.maximum(alike, varied)
    low, high = wilson(share * n, n)
    return _of_means(classes, share - low, high - share)


def _of_means(classes: Summary, below: NDArray[np.float64], above: NDArray[np.float64]) -> Summary:
    """Return the summary of class means, whose interval reaches so far below and above."""
    mean, present = classes.mean, classes.n > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        k = present.sum(axis=0)
        centre = np.where(present, mean, 0.0).sum(axis=0) / k
        spread = np.sqrt((np.where(present, mean - centre, 0.0) ** 2).sum(axis=0) / (k - 1))
    return Summary(
        n=classes.n.sum(axis=0),
        n_undefined=classes.n_undefined.sum(axis=0),
        mean=centre,
        std=spread,
        low=centre - below,
        high=centre + above,
        median=summarise(mean).median,
    )


def _medians(
    columns: NDArray[np.float64], starts: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the median of each group, ``(columns, groups)``; sorts `columns` in place."""
    for group in np.split(columns, starts[1:], axis=1):
        group.sort(axis=1)  # NaN comes last
    rows = np.arange(len(columns))[:, None]
    lower, upper = np.maximum(n - 1, 0) // 2, np.minimum(n // 2, np.maximum(n - 1, 0))
    middle = (columns[rows, starts + lower] + columns[rows, starts + upper]) / 2
    return np.where(n > 0, middle, np.nan)
