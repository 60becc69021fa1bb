"""Which classes show a concept, and which concepts show a class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.atlas import views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.atlas.views import View

N_BEST = 10
"""Best samples of a class whose mean score stands for the class."""
N_CLASSES = 5
"""Classes named of each concept."""


@dataclass(frozen=True)
class ByClass:
    """How strongly each class shows each concept of a layer."""

    classes: NDArray[np.int64]
    """Class indices, ``(class,)``."""
    mean: NDArray[np.float32]
    """Mean of the best scores, ``(class, channel)``; -inf where a class has no sample."""

    def best_classes(self, channel: int, n: int = N_CLASSES) -> list[tuple[int, float]]:
        """Return the classes that show a concept most, with their means, best first."""
        return [
            (int(self.classes[row]), float(self.mean[row, channel]))
            for row in np.argsort(-self.mean[:, channel], kind="stable")[:n]
            if self.mean[row, channel] > 0
        ]

    def best_concepts(self, row: int, n: int) -> list[tuple[int, float]]:
        """Return the concepts that a class shows most, with their means, best first."""
        return [
            (int(channel), float(self.mean[row, channel]))
            for channel in np.argsort(-self.mean[row], kind="stable")[:n]
            if self.mean[row, channel] > 0
        ]


def by_class(view: View, layer: str) -> ByClass | None:
    """Return class means of a layer from its lists per class; None if there are none."""
    per_class = view.layers[layer].get("per_class", {})
    names = [name for name in per_class if view.score in per_class[name]]
    if not names:
        return None
    means = [_mean(np.asarray(per_class[name][view.score]["value"][:N_BEST])) for name in names]
    return ByClass(np.array([int(name) for name in names], np.int64), np.stack(means))


def among_best(
    labels: NDArray[np.int64], samples: NDArray[np.int64], n: int = N_CLASSES
) -> list[tuple[int, int]]:
    """Return the classes of a concept's best samples and how many there are of each."""
    known = labels[samples[samples != views.MISSING]]
    classes, counts = np.unique(known[known >= 0], return_counts=True)
    order: Sequence[int] = np.argsort(-counts, kind="stable")[:n].tolist()
    return [(int(classes[row]), int(counts[row])) for row in order]


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no sample at all: NaN, replaced below
        mean = np.nanmean(values, axis=0)
    return np.where(np.isnan(mean), -np.inf, mean).astype(np.float32)
