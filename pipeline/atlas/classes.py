"""Which classes show a concept, and which concepts show a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from explainers.maximization.class_statistics import class_statistics
from pipeline.atlas import views
from pipeline.sinks.stored_result import StoredStack

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
            if self._is_told(row, channel)
        ]

    def best_concepts(self, row: int, n: int) -> list[tuple[int, float]]:
        """Return the concepts that a class shows most, with their means, best first."""
        return [
            (int(channel), float(self.mean[row, channel]))
            for channel in np.argsort(-self.mean[row], kind="stable")[:n]
            if self._is_told(row, channel)
        ]

    def _is_told(self, row: int, channel: int) -> bool:
        """Whether a class has samples, and any of them says something about the concept."""
        mean = float(self.mean[row, channel])
        return mean != 0 and mean != -np.inf


def by_class(view: View, layer: str) -> ByClass | None:
    """Return class means of a layer from its lists per class; None if there are none."""
    values = _values(view, layer)
    if not values:
        return None
    of_classes = {
        index: {view.score: {"value": torch.from_numpy(found)}} for index, found in values.items()
    }
    statistics = class_statistics(
        {"per_class": of_classes}, n_classes=len(values), n_best=N_BEST, score=view.score
    )
    known, means = np.asarray(statistics["class"]), np.asarray(statistics["mean"])
    classes = np.array(sorted(values), np.int64)
    # one row more, for what stands where a channel has no further class
    mean = np.full((len(classes) + 1, means.shape[1]), -np.inf, np.float32)
    rows = np.where(known < 0, len(classes), np.searchsorted(classes, known))
    np.put_along_axis(mean, rows, means, axis=0)
    return ByClass(classes, mean[:-1])


def _values(view: View, layer: str) -> dict[int, NDArray[np.float32]]:
    """Return the best scores of each class, ``(rank, channel)``."""
    per_class = view.layers[layer].get("per_class", {})
    if isinstance(per_class, StoredStack) and view.score in per_class.together:
        best = per_class.together[view.score].part("value", (slice(None), slice(N_BEST)))
        return dict(zip(per_class, best, strict=True))
    return {
        int(name): np.asarray(found[view.score]["value"])[:N_BEST]
        for name, found in per_class.items()
        if view.score in found
    }


def among_best(
    labels: NDArray[np.int64], samples: NDArray[np.int64], n: int = N_CLASSES
) -> list[tuple[int, int]]:
    """Return the classes of a concept's best samples and how many there are of each."""
    known = labels[samples[samples != views.MISSING]]
    classes, counts = np.unique(known[known >= 0], return_counts=True)
    order: Sequence[int] = np.argsort(-counts, kind="stable")[:n].tolist()
    return [(int(classes[row]), int(counts[row])) for row in order]
