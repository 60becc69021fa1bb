"""Which samples a cluster is checked with, and which region is erased there or put on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.spray.regions import positions
from pipeline.spray.result import GLOBAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.spray.result import Analysis, Cluster, View

Read = Callable[["Sequence[int]"], "NDArray[Any]"]
"""Returns the inputs of samples, ``(samples, ...)``; of those that can be read."""

KINDS = INSIDE, OUTSIDE, PASTED, CONTROL = ("inside", "outside", "pasted", "control")
"""Erased in the cluster, erased in the class outside of it, put on other classes from the cluster,
put on the same samples from outside the cluster."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of every sample of the data set, int64 ``(samples,)``, -1 if it is not."""

    predictions: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Probe:
    """The check of one cluster."""

    target: int
    """The class."""
    label: int
    """The cluster."""
    mask: NDArray[Any]
    """Positions of the input that are changed, bool, without an axis for channels."""
    patches: NDArray[Any]
    """What the cluster's medoids have there, ``(medoids, channels, positions)``."""
    controls: NDArray[Any]
    """What medoids of another cluster have there."""
    inside: NDArray[Any]
    """Samples of the cluster, int64, ascending; the others likewise."""
    outside: NDArray[Any]
    """Of the class, outside the cluster."""
    others: NDArray[Any]
    """Of other classes, by what the network says and by the truth."""

    def samples(self, kind: str) -> NDArray[Any]:
        """Return the samples that are changed in one way."""
        return {INSIDE: self.inside, OUTSIDE: self.outside}.get(kind, self.others)


def probes(
    analysis: Analysis, facts: Facts, map_sizes: Sequence[int], read: Read
) -> Iterator[Probe]:
    """Yield the checks of all clusters of classes that have more than one.

    The control comes from the cluster of the class that has the least relevance in the region: one
    that shares the strategy, because it was cut in two, would be no control.

    Parameters
    ----------
    analysis
        Its parameters say how many samples are taken.
    facts
        Of all samples.
    map_sizes
        Of maps before pooling, without channels.
    read
        Reads the medoids.
    """
    for view in analysis.views.values():
        if view.name == GLOBAL or len(view.clusters) < 2:
            continue
        for cluster in view.clusters:
            other = _control(view, cluster)
            if not cluster.hot.any():
                continue
            donors, controls = read(cluster.medoids), read(other.medoids)
            if not len(donors) or not len(controls):
                continue
            sizes = donors.shape[donors.ndim - len(map_sizes) :]
            mask = positions(cluster.hot, analysis.parameters["grid"], map_sizes, sizes)
            chosen = _chosen(view, cluster, facts, analysis.parameters)
            yield Probe(
                view.target,
                cluster.label,
                mask,
                _patch(donors, mask),
                _patch(controls, mask),
                *chosen,
            )


def values_of(inputs: Any, n_axes: int) -> Any:
    """Return inputs as ``(samples, channels, positions)``, array or tensor; a view."""
    shape = inputs.shape
    n_channels = int(np.prod(shape[1 : len(shape) - n_axes]))
    return inputs.reshape(shape[0], n_channels, -1)


def _patch(inputs: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.asarray(values_of(inputs, mask.ndim)[:, :, mask.ravel()], np.float32)


def _control(view: View, cluster: Cluster) -> Cluster:
    others = [other for other in view.clusters if other.label != cluster.label]
    held = [float(np.abs(other.mean[cluster.hot]).sum()) for other in others]
    return others[int(np.argmin(held))]


def _chosen(
    view: View, cluster: Cluster, facts: Facts, parameters: dict[str, Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return samples inside, outside and of other classes, drawn without order."""
    target = view.target
    says = facts.predictions[view.samples] == target
    is_member = view.labels == cluster.label
    known = facts.predictions >= 0
    # not by what was explained: where that is one class for all, there were no others
    is_other = known & (facts.predictions != target) & (facts.labels != target)
    generator = np.random.default_rng((parameters["seed"], target, cluster.label))
    candidates = (
        view.samples[says & is_member],
        view.samples[says & ~is_member],
        np.flatnonzero(is_other),
    )
    count = parameters["n_checked"]
    drawn = [generator.permutation(each)[:count] for each in candidates]
    inside, outside, others = (np.sort(each) for each in drawn)
    return inside, outside, others
