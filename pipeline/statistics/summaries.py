"""Columns of scores summed up, whole or by group: means, spreads, medians and intervals."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

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
    """Return the mean of class means, each class weighing the same; empty classes are left out.

    Its interval is the normal one of a sum of independent means; its spread is that of the means.

    Parameters
    ----------
    classes
        ``(classes, columns)``.
    """
    mean = classes.mean
    present = ~np.isnan(mean)
    variance = classes.std**2 / np.maximum(classes.n, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        k = present.sum(axis=0)
        centre = np.where(present, mean, 0.0).sum(axis=0) / k
        half = special.ndtri(0.975) * np.sqrt(np.where(present, variance, 0.0).sum(axis=0)) / k
        spread = np.sqrt((np.where(present, mean - centre, 0.0) ** 2).sum(axis=0) / (k - 1))
    return Summary(
        n=classes.n.sum(axis=0),
        n_undefined=classes.n_undefined.sum(axis=0),
        mean=centre,
        std=spread,
        low=centre - half,
        high=centre + half,
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
