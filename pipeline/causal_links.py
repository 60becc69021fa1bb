"""What the causal graphs of a run say of all classes at once, read as far as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explainers.causal.graphs import CLASSES
from explainers.causal.results import HOW, UNTESTED
from pipeline.sinks.stored_result import StoredStack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.sinks.stored_result import StoredResult


@dataclass(frozen=True, eq=False)
class LayerOfAll:
    """One layer of the graphs of all classes."""

    name: str
    values: StoredResult
    """Of all classes, or of the only one."""
    is_stacked: bool
    """Whether arrays have an axis of classes."""

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array, ``(classes, ...)``; of a sweep ``sweep/<name>``."""
        found: Any = self.values
        for key in name.split("/"):
            found = found[key]
        return np.asarray(found) if self.is_stacked else np.asarray(found)[None]

    @property
    def is_tested(self) -> bool:
        """Whether it has neurons that were intervened on."""
        return "tested" in self

    @property
    def n_neurons(self) -> int:
        """How many there are."""
        return int(self.values.shape("te")[-1])

    @cached_property
    def causes(self) -> NDArray[np.bool_]:
        """Whether a neuron is a cause whose removal lowers the logit, ``(classes, neurons)``."""
        return np.asarray(self["sign"] > 0)

    @cached_property
    def negative_causes(self) -> NDArray[np.bool_]:
        """Whether a neuron is a cause whose removal raises the logit, ``(classes, neurons)``."""
        return np.asarray(self["sign"] < 0)

    @property
    def n_effects(self) -> NDArray[np.int64]:
        """How many channels the graph above is made of, ``(classes,)``."""
        return np.asarray((self["effects"] >= 0).sum(-1))

    @property
    def how(self) -> list[str]:
        """How causes were selected, of each class."""
        return [HOW[int(code)] for code in self["how"]]

    @property
    def has_test(self) -> NDArray[np.bool_]:
        """Whether there was a test, ``(classes,)``: samples enough, and the graph got there."""
        return ~np.isin(self["how"], UNTESTED)


@dataclass(frozen=True, eq=False)
class GraphsOfAll:
    """The graphs of one scan."""

    labels: tuple[int, ...]
    """The classes."""
    layers: tuple[LayerOfAll, ...]
    """In execution order."""
    samples: Mapping[str, Any]
    """What it was learned from: ``sample``, ``label``, ``is_held_out``, ``seen``, ``correct``."""

    @classmethod
    def read(cls, result: StoredResult) -> GraphsOfAll | None:
        """Return the graphs of a stored result; None if it has none."""
        classes = result.get(CLASSES, {})
        if not classes:
            return None
        labels = tuple(int(label) for label in classes)
        is_stacked = isinstance(classes, StoredStack)
        together = classes.together if isinstance(classes, StoredStack) else classes[labels[0]]
        layers = tuple(LayerOfAll(name, together[name], is_stacked) for name in together)
        return cls(labels, layers, result.get("samples", {}))

    @property
    def tested(self) -> tuple[LayerOfAll, ...]:
        """The layers whose neurons were intervened on."""
        return tuple(each for each in self.layers if each.is_tested)

    @cached_property
    def n_causes(self) -> NDArray[np.int64]:
        """How many causes of either sign each class has, ``(classes, layers that are tested)``."""
        found = [each.causes.sum(1) + each.negative_causes.sum(1) for each in self.tested]
        return np.stack(found, 1) if found else np.zeros((len(self.labels), 0), np.int64)


def overlap(layers: tuple[LayerOfAll, ...]) -> NDArray[np.float64]:
    """Return how alike the causes of two classes are, ``(classes, classes)``, in [0, 1].

    ``|A and B| / |A or B|`` of the pairs of layer, neuron whose removal lowers the logit (Jaccard
    1901); NaN where neither class has any.
    """
    sets = np.concatenate([each.causes for each in layers], 1).astype(np.float64)
    both = sets @ sets.T
    sizes = sets.sum(1)
    either = sizes[:, None] + sizes[None] - both
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(either > 0, both / either, np.nan))
