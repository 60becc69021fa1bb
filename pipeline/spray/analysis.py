"""From pooled maps to views of classes and of all: project, link, decompose, cluster."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.spray.clusters import described, evidence, normalised, partition
from pipeline.spray.moments import projected
from pipeline.spray.parameters import Spray
from pipeline.spray.pooling import grid_of, pooled
from pipeline.spray.result import GLOBAL, Analysis, View
from pipeline.spray.spectrum import eigenpairs, graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.spray.moments import Chunks

BUDGET = 256 << 20
"""Bytes of pooled maps that are held together; a view that takes more is read chunk by chunk."""

ROWS = 4096
"""Of a chunk that is cut from what is held."""


@dataclass(frozen=True, eq=False)
class PooledMaps:
    """Pooled maps of samples, as often as one asks for them."""

    chunks: Callable[[], Iterable[tuple[NDArray[Any], NDArray[Any]]]]
    """Returns pairs of samples ``(rows,)``, ascending throughout, and of maps ``(rows, cells)``;
    only maps that are defined."""
    grid: tuple[int, ...]
    """Shape of a pooled map."""
    samples: NDArray[Any]
    """Those with defined maps, int64, ascending."""
    n_undefined: int
    """Further maps, which are not defined."""


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A view that is to be made."""

    name: str
    target: int
    n: int
    samples: NDArray[Any]


def spray(maps: Any, classes: Any = None, parameters: Spray | None = None) -> Analysis:
    """Return the spectral relevance analysis of maps in memory.

    Parameters
    ----------
    maps
        Array or tensor: pictures ``(samples, channel, height, width)`` or ``(samples, height,
        width)``, or vectors ``(samples, values)``.
    classes
        Class of each sample, int ``(samples,)``; negative ones are in the global view alone. All
        one class if not given.
    parameters
        How; the defaults if not given.

    Returns
    -------
    Analysis
        Not checked yet: `pipeline.spray.confirm` does that.

    Raises
    ------
    ValueError
        If maps and classes do not fit.
    ConfigError
        If scikit-learn is not installed.
    """
    settings = parameters or Spray()
    values = np.asarray(maps.detach().cpu() if hasattr(maps, "detach") else maps)
    if values.ndim not in (2, 3, 4):
        raise ValueError(
            f"got maps of shape {values.shape}, expected (samples, channel, height, width), "
            "(samples, height, width) or (samples, values)"
        )
    if not values.size:
        raise ValueError(
            f"got maps of shape {values.shape}, expected at least one value of one map"
        )
    known = np.zeros(len(values), np.int64) if classes is None else np.asarray(classes, np.int64)
    if known.shape != values.shape[:1]:
        raise ValueError(f"got classes of shape {known.shape}, expected {values.shape[:1]}")
    n_axes = min(2, values.ndim - 1)
    vectors, is_defined = pooled(values, n_axes, settings.grid, settings.sign)
    samples = np.flatnonzero(is_defined)
    held = PooledMaps(
        chunks=lambda: [(samples, vectors[samples])],
        grid=grid_of(values.shape[-n_axes:], settings.grid),
        samples=samples,
        n_undefined=int((~is_defined).sum()),
    )
    return analyse(held, known, settings)


def analyse(maps: PooledMaps, classes: NDArray[Any], spray: Spray, explainer: str = "") -> Analysis:
    """Return the analysis of pooled maps.

    Parameters
    ----------
    maps
        Read as often as the views that fit into memory together make necessary.
    classes
        Of every sample of the data set, int64; negative for none.
    spray
        How.
    explainer
        Whose maps they are.
    """
    wanted, skipped = _wanted(maps, classes, spray)
    n_cells = int(np.prod(maps.grid))
    views = {}
    for group in _groups(wanted, n_cells):
        for each, chunks in _read(maps, group, n_cells):
            views[each.name] = _view(each, chunks, classes[each.samples], maps.grid, spray)
    return Analysis(
        views={each.name: views[each.name] for each in wanted},
        grid=maps.grid,
        n_samples=len(maps.samples) + maps.n_undefined,
        n_undefined=maps.n_undefined,
        skipped=skipped,
        explainer=explainer,
        parameters=asdict(spray),
    )


def _wanted(
    maps: PooledMaps, classes: NDArray[Any], spray: Spray
) -> tuple[list[_Wanted], dict[int, int]]:
    """Return the views to be made, and the classes with too few maps."""
    wanted, skipped = [], {}
    of = classes[maps.samples]
    for target in np.unique(of[of >= 0]) if "class" in spray.views else ():
        samples = maps.samples[of == target]
        if len(samples) < spray.min_samples:
            skipped[int(target)] = len(samples)
            continue
        drawn = _drawn(samples, spray, int(target))
        wanted.append(_Wanted(f"class:{target}", int(target), len(samples), drawn))
    if "global" in spray.views and len(maps.samples) >= spray.min_samples:
        drawn = _drawn(maps.samples, spray, -1)
        wanted.append(_Wanted(GLOBAL, -1, len(maps.samples), drawn))
    return wanted, skipped


def _drawn(samples: NDArray[Any], spray: Spray, target: int) -> NDArray[Any]:
    """Return as many samples as a view may have, drawn without order."""
    if len(samples) <= spray.max_samples:
        return samples
    generator = np.random.default_rng((spray.seed, 1 + target))
    return np.sort(generator.choice(samples, spray.max_samples, replace=False))


def _groups(wanted: Sequence[_Wanted], n_cells: int) -> Iterator[list[_Wanted]]:
    """Yield views whose maps are held together."""
    group: list[_Wanted] = []
    n_bytes = 0
    for each in wanted:
        own = 4 * n_cells * len(each.samples)
        if group and n_bytes + own > BUDGET:
            yield group
            group, n_bytes = [], 0
        group.append(each)
        n_bytes += own
    if group:
        yield group


def _read(
    maps: PooledMaps, group: Sequence[_Wanted], n_cells: int
) -> Iterator[tuple[_Wanted, Chunks]]:
    """Yield the views of a group with their maps."""
    if len(group) == 1 and 4 * n_cells * len(group[0].samples) > BUDGET:
        yield group[0], _Streamed(maps, group[0].samples)
        return
    parts: dict[str, list[NDArray[Any]]] = {each.name: [] for each in group}
    for samples, rows in maps.chunks():
        for each in group:
            parts[each.name].append(rows[_among(samples, each.samples)])
    for each in group:
        yield each, _Held(np.concatenate(parts.pop(each.name)))


@dataclass(frozen=True, eq=False)
class _Held:
    rows: NDArray[Any]

    def __call__(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self.rows), ROWS):
            yield self.rows[start : start + ROWS]


@dataclass(frozen=True, eq=False)
class _Streamed:
    maps: PooledMaps
    samples: NDArray[Any]

    def __call__(self) -> Iterator[NDArray[Any]]:
        for samples, rows in self.maps.chunks():
            yield rows[_among(samples, self.samples)]


def _among(samples: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of some samples are wanted; both ascend."""
    place = np.searchsorted(wanted, samples)
    return np.asarray(wanted[np.minimum(place, len(wanted) - 1)] == samples)


def _view(
    wanted: _Wanted,
    chunks: Chunks,
    classes: NDArray[Any],
    grid: tuple[int, ...],
    spray: Spray,
) -> View:
    vectors = projected(chunks, spray.n_components)
    links = graph(vectors, spray.n_neighbors)
    values, eigenvectors = eigenpairs(links, min(spray.n_eigenvalues, len(vectors) - 1))
    n_zero, gap, count = evidence(values, spray)
    labels = partition(normalised(eigenvectors[:, :count]), count, spray.seed)
    return View(
        name=wanted.name,
        target=wanted.target,
        n=wanted.n,
        samples=wanted.samples,
        labels=labels,
        embedding=normalised(eigenvectors).astype(np.float32),
        eigenvalues=values,
        n_zero=n_zero,
        gap=gap,
        tau=gap + float(np.maximum(0.0, 1.0 - values[1:] / spray.zero).sum()),
        clusters=described(chunks, vectors, labels, wanted.samples, classes, grid, spray),
    )
