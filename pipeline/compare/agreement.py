"""How alike two maps of the same sample are: of ranks, and of the features that matter most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Maps = NDArray[np.float64]
    Mask = NDArray[np.bool_]

TOP = 0.1
"""Share of the features that `ndcg` looks at."""


def rank_correlation(before: Maps, after: Maps, valid: Mask) -> NDArray[np.float64]:
    r"""Return Spearman's correlation of each pair of maps, ``(samples,)`` in [-1, 1].

    .. math:: \rho = \mathrm{corr}(\mathrm{rank}(a), \mathrm{rank}(b)),

    with the mean rank for ties (Spearman, 1904). Maps that are the same correlate with 1, also
    where they are the same everywhere; a constant map and another one have none: NaN, as of maps
    that are not finite.

    Parameters
    ----------
    before, after
        Maps, ``(samples, features)``.
    valid
        Which features a sample has; the others are left out.
    """
    first, second = _ranks(before, valid), _ranks(after, valid)
    n = valid.sum(axis=1, keepdims=True)
    centre = (n + 1) / 2
    first, second = np.where(valid, first - centre, 0.0), np.where(valid, second - centre, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
        correlation = np.asarray(np.clip((first * second).sum(axis=1) / size, -1.0, 1.0))
    correlation[_same(before, after, valid)] = 1.0
    correlation[~_finite(before, after, valid)] = np.nan
    return correlation


def ndcg(before: Maps, after: Maps, valid: Mask, top: float = TOP) -> NDArray[np.float64]:
    r"""Return how well a map's top features hold what was relevant, ``(samples,)`` in [0, 1].

    .. math:: \mathrm{nDCG}_k = \frac{\sum_{i \le k} g_{\pi(i)} / \log_2(i + 1)}
                                     {\sum_{i \le k} g_{\sigma(i)} / \log_2(i + 1)},

    where the gains g are the magnitudes of the relevance before, :math:`\pi` orders features by
    their magnitudes after, :math:`\sigma` by those before, and k is a share of the features
    (Järvelin and Kekäläinen, 2002, doi:10.1145/582415.582418). Ties count with their expectation
    over random orders (McSherry and Najork, 2008). 1 if nothing was relevant in both maps; NaN
    where a map is not finite, or nothing was relevant before and something is after.

    Parameters
    ----------
    before, after
        Maps, ``(samples, features)``.
    valid
        Which features a sample has; the others are left out.
    top
        Share of a sample's features that is looked at, rounded up.
    """
    gain = np.where(valid, np.abs(before), 0.0)
    n = valid.sum(axis=1)
    k = np.ceil(top * n - 1e-9).astype(np.int64)
    place = np.arange(gain.shape[1])
    discount = np.where(place < k[:, None], 1 / np.log2(place + 2), 0.0)
    # what a sample does not have comes last, and nothing is discounted there
    order = np.where(valid, np.abs(after), -1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        reached = (_in_order(gain, order) * discount).sum(axis=1)
        share = reached / (-np.sort(-gain, axis=1) * discount).sum(axis=1)
    share = np.asarray(np.minimum(share, 1.0))
    share[_same(before, after, valid)] = 1.0
    share[~_finite(before, after, valid)] = np.nan
    return share


def moved(before: Maps, after: Maps, valid: Mask) -> NDArray[np.float64]:
    r"""Return the share of relevance that is elsewhere, ``(samples,)`` in [0, 1].

    .. math:: \frac{1}{2} \sum_i \left| \frac{|a_i|}{\sum |a|} - \frac{|b_i|}{\sum |b|} \right|,

    the total variation between the maps' magnitudes. NaN where a map is zero or not finite.
    """
    first, second = shares(before, valid), shares(after, valid)
    return np.asarray(np.minimum(np.abs(first - second).sum(axis=1) / 2, 1.0))


def shares(relevance: Maps, valid: Mask) -> Maps:
    """Return the share of each feature in a map's magnitude; NaN where a map is zero."""
    magnitude = np.where(valid, np.abs(relevance), 0.0)
    # greatest first to 1: magnitudes near the end of their type must not overflow in the sum
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = magnitude / magnitude.max(axis=1, keepdims=True)
        return np.asarray(magnitude / magnitude.sum(axis=1, keepdims=True))


def _ranks(relevance: Maps, valid: Mask) -> Maps:
    # NaN would make NaN of a whole row's ranks, with no way to leave features out
    known = np.where(valid, np.nan_to_num(relevance, posinf=0.0, neginf=0.0), np.inf)
    return np.asarray(rankdata(known, axis=1))


def _in_order(gain: Maps, key: Maps) -> Maps:
    """Return gains by descending key, each the mean over the features with the same key."""
    order = np.argsort(-key, axis=1, kind="stable")
    gain, key = np.take_along_axis(gain, order, 1), np.take_along_axis(key, order, 1)
    is_new = np.ones(key.shape, bool)
    is_new[:, 1:] = key[:, 1:] != key[:, :-1]
    group = np.cumsum(is_new.ravel()) - 1  # first of a row is new: no group spans two samples
    total = np.bincount(group, gain.ravel()) / np.bincount(group)
    return np.asarray(total[group].reshape(gain.shape))


def _same(before: Maps, after: Maps, valid: Mask) -> Mask:
    return np.asarray(((before == after) | ~valid).all(axis=1))


def _finite(before: Maps, after: Maps, valid: Mask) -> Mask:
    """Return which pairs have maps at all, and finite ones."""
    known = (np.isfinite(before) & np.isfinite(after)) | ~valid
    return np.asarray(known.all(axis=1) & valid.any(axis=1))
