"""Shares of hits, and p-values that were asked for together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def wilson(
    hits: ArrayLike, n: ArrayLike, *, alpha: float = 0.05
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return both ends of Wilson's score interval of a share.

    .. math:: \frac{\hat p + \frac{z^2}{2n} \pm z\sqrt{\frac{\hat p(1-\hat p)}{n} +
        \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}

    It stays within [0, 1] and has a width where all or none hit, unlike the normal interval. NaN
    where `n` is 0.

    Parameters
    ----------
    hits
        How many hit, any shape.
    n
        Out of how many; of a shape that broadcasts.
    alpha
        One less the confidence.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA,
    1927, doi:10.1080/01621459.1927.10502953.
    """
    count, total = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    z = float(special.ndtri(1 - alpha / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = count / total
        centre = share + z**2 / (2 * total)
        half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
        scale = 1 + z**2 / total
        # rounding puts neither end outside of [0, 1], nor the share outside of both
        return (
            np.clip(np.minimum((centre - half) / scale, share), 0, 1),
            np.clip(np.maximum((centre + half) / scale, share), 0, 1),
        )


def holm(p: ArrayLike) -> NDArray[np.float64]:
    r"""Return Holm's adjusted p-values of tests that were made together.

    :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\,p_{(j)})` in ascending order, which
    keeps the chance of any false finding below the level. NaN stays NaN and does not count.

    Parameters
    ----------
    p
        p-values of the family, ``(tests,)``.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics, 1979.
    """
    values = np.asarray(p, np.float64)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * values[order]))
    return adjusted
