"""How many clusters the eigenvalues tell, which maps are in each, and what sets it apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.spray.result import Cluster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.spray.moments import Chunks
    from pipeline.spray.parameters import Spray

STARTS = 10
"""Of k-means; the best one counts."""
NO_GAP = 1e-9
"""Steps between eigenvalues up to which rounding alone may make them."""


def evidence(eigenvalues: NDArray[Any], spray: Spray) -> tuple[int, float, int]:
    """Return the zeros beyond the first, the largest gap, and how many clusters they tell.

    Where no eigenvalue beyond the first is about zero, there are as many clusters as eigenvalues
    before the largest gap, from two on. Where some are, there are at least as many as zeros, and
    more where the largest step comes later: several strategies may hang together by a few maps.
    Steps are ratios then, as parts that fall asunder have spectra of their own, whose gaps are as
    large as those between parts. Where nothing tells maps apart, as all are the same, there is one.
    """
    n_zero = int((eigenvalues[1:] < spray.zero).sum())
    gaps = np.diff(eigenvalues)[1 : spray.max_clusters]
    gap = float(gaps.max()) if len(gaps) else 0.0
    if spray.n_clusters is not None:
        count = spray.n_clusters
    elif n_zero:
        least = np.maximum(eigenvalues, 2 * spray.zero)
        ratios = (least[1:] / least[:-1])[n_zero : spray.max_clusters]
        further = int(ratios.argmax()) if len(ratios) else 0
        count = min(1 + n_zero + further, spray.max_clusters)
    else:
        count = 2 + int(gaps.argmax()) if gap > NO_GAP else 1
    return n_zero, gap, min(count, len(eigenvalues))


def normalised(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return rows of length 1 (Ng, Jordan & Weiss 2001); rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, norms, where=norms > 0, out=np.zeros_like(vectors)))


def partition(vectors: NDArray[Any], count: int, seed: int) -> NDArray[np.int32]:
    """Return the cluster of each row by k-means, int32 ``(rows,)``; the largest is 0.

    Clusters of one size are in the order of their first rows.
    """
    from sklearn.cluster import KMeans

    if count == 1:
        return np.zeros(len(vectors), np.int32)
    count = min(count, len(np.unique(vectors.round(12), axis=0)))
    found = KMeans(n_clusters=count, n_init=STARTS, random_state=seed).fit_predict(vectors)
    names, first, inverse, sizes = np.unique(
        found, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -sizes))
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    return place[inverse]


def described(
    chunks: Chunks,
    vectors: NDArray[Any],
    labels: NDArray[Any],
    samples: NDArray[Any],
    classes: NDArray[Any],
    grid: tuple[int, ...],
    spray: Spray,
) -> tuple[Cluster, ...]:
    """Return the clusters of a view.

    Parameters
    ----------
    chunks
        Its pooled maps, in the order of `samples`.
    vectors
        The same, projected.
    labels, samples, classes
        Of each map.
    grid
        Shape of a pooled map.
    spray
        How regions are found.
    """
    sizes = np.bincount(labels)
    means = _means(chunks, labels, sizes)
    total = (means * sizes[:, None]).sum(axis=0)
    clusters = []
    for label, size in enumerate(sizes):
        rest = len(labels) - size
        others = (total - size * means[label]) / rest if rest else np.zeros_like(total)
        contrast = means[label] - others
        hot = hot_region(contrast, spray.hot_share, spray.hot_area)
        members = labels == label
        clusters.append(
            Cluster(
                label=label,
                size=int(size),
                share=float(size / len(labels)),
                medoids=_medoids(vectors[members], samples[members], spray.n_medoids),
                mean=means[label].reshape(grid).astype(np.float32),
                contrast=contrast.reshape(grid).astype(np.float32),
                hot=hot.reshape(grid),
                sparseness=gini(np.abs(means[label])),
                location=_centre(hot.reshape(grid)),
                purity=float(np.unique(classes[members], return_counts=True)[1].max() / size),
            )
        )
    return tuple(clusters)


def hot_region(contrast: NDArray[Any], share: float, area: float) -> NDArray[np.bool_]:
    """Return the fewest cells that hold this share of what is positive, no more than an area.

    Parameters
    ----------
    contrast
        ``(cells,)``.
    share
        Of the sum of its positive values.
    area
        Largest share of the cells, but at least one; none where nothing is positive.
    """
    excess = np.maximum(contrast, 0.0)
    order = np.argsort(-excess, kind="stable")
    before = np.cumsum(excess[order]) - excess[order]
    wanted = (before < share * excess.sum()) & (excess[order] > 0)
    wanted[max(1, int(area * len(excess))) :] = False
    hot = np.zeros(len(excess), bool)
    hot[order[wanted]] = True
    return hot


def gini(values: NDArray[Any]) -> float:
    """Return the Gini index of values that are not negative, in [0, 1]; 0 if all are zero."""
    ascending = np.sort(values.ravel())
    n, total = len(ascending), ascending.sum()
    if total <= 0:
        return 0.0
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * ascending).sum() / (n * total))


def _means(chunks: Chunks, labels: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean map of each cluster, ``(clusters, cells)``."""
    sums: Any = 0.0
    start = 0
    for rows in chunks():
        of = labels[start : start + len(rows)]
        members = (of == np.arange(len(sizes))[:, None]).astype(np.float64)
        sums = sums + members @ rows
        start += len(rows)
    return np.asarray(sums / sizes[:, None])


def _medoids(vectors: NDArray[Any], samples: NDArray[Any], count: int) -> tuple[int, ...]:
    centre = vectors.mean(axis=0, dtype=np.float64)
    distances = ((vectors - centre) ** 2).sum(axis=1)
    nearest = np.argsort(distances, kind="stable")[:count]
    return tuple(int(sample) for sample in samples[nearest])


def _centre(hot: NDArray[np.bool_]) -> tuple[float, ...]:
    places = np.argwhere(hot)
    if not len(places):
        return (float("nan"),) * hot.ndim
    centre = (places.mean(axis=0) + 0.5) / np.array(hot.shape)
    return tuple(float(each) for each in centre)
