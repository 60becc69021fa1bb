"""What a spectral relevance analysis finds: views, their clusters, and what checks of them say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

GLOBAL = "global"
"""Name of the view of all classes together."""

Verdict = Literal["clever_hans", "cluster"]

CLEVER_HANS: Verdict = "clever_hans"
CLUSTER: Verdict = "cluster"


@dataclass(frozen=True)
class Counterfactual:
    """What happens to the network when a cluster's hot region is erased, or put elsewhere.

    Shares and probabilities are in [0, 1], NaN where nothing could be asked.
    """

    n_inside: int = 0
    """Samples of the cluster in which the region was erased; all say the class before."""
    n_outside: int = 0
    """Samples of the class outside the cluster in which it was erased, likewise."""
    n_pasted: int = 0
    """Samples of other classes that the region was put on; none says the class before."""
    confidence_inside: float = math.nan
    """Mean probability of the class before, inside the cluster."""
    confidence_outside: float = math.nan
    erase_drop_inside: float = math.nan
    """Mean decrease of that probability by erasing."""
    erase_drop_outside: float = math.nan
    erase_lost_inside: float = math.nan
    """Share of samples that no longer say the class once the region is erased."""
    erase_lost_outside: float = math.nan
    paste_gain: float = math.nan
    """Mean increase of the probability of the class by the region of the cluster's medoids."""
    flip_rate: float = math.nan
    """Share of samples that say the class once it is pasted."""
    flip_low: float = math.nan
    """Ends of its 95 % interval (Wilson 1927)."""
    flip_high: float = math.nan
    control_gain: float = math.nan
    """As `paste_gain`, by the same region of samples of the class outside the cluster."""
    control_rate: float = math.nan
    """As `flip_rate`, likewise."""
    control_high: float = math.nan
    """Upper end of its 95 % interval."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """Maps of one view that are like each other."""

    label: int
    """Its number in `View.labels`; clusters are numbered by size, the largest first."""
    size: int
    share: float
    """Of the view's maps, (0, 1]."""
    medoids: tuple[int, ...]
    """Samples nearest to the mean of the cluster, nearest first."""
    mean: NDArray[Any]
    """Mean of its maps after pooling and L1 normalisation, ``(rows, columns)`` or ``(values,)``."""
    contrast: NDArray[Any]
    """`mean` less that of the other maps of the view: what sets it apart."""
    hot: NDArray[Any]
    """Region in which `contrast` is highest, bool, of the same shape."""
    sparseness: float
    """Gini index of `mean` in [0, 1]: 1 is one cell, 0 is even."""
    location: tuple[float, ...]
    """Centre of `hot` as shares of height and width (or of the length), from the top left."""
    purity: float
    """Share of the class that is most frequent in it; 1 in the view of a class."""
    verdict: Verdict = CLUSTER
    """``clever_hans`` only if the counterfactual check confirms it."""
    counterfactual: Counterfactual | None = None
    """None where nothing was checked: in the global view, or where there is one cluster."""


@dataclass(frozen=True, eq=False)
class View:
    """The maps of one class, or of all."""

    name: str
    """``class:<index>`` or ``global``."""
    target: int
    """The class; -1 in the global view."""
    n: int
    """Maps of it; those drawn are in `samples`."""
    samples: NDArray[Any]
    """Which samples, int64 ``(maps,)``, ascending."""
    labels: NDArray[Any]
    """Cluster of each, int32 ``(maps,)``."""
    embedding: NDArray[Any]
    """Eigenvectors of the Laplacian, a row per map, float32 ``(maps, eigenvalues)``; rows have
    length 1."""
    eigenvalues: NDArray[Any]
    """Smallest of the Laplacian, ascending, float64 ``(eigenvalues,)`` in [0, 2]."""
    n_zero: int
    """Eigenvalues that count as zero beyond the first: parts that hardly hang together."""
    gap: float
    """Largest step between eigenvalues k and k + 1, for k from 2 to the most clusters."""
    tau: float
    """Evidence of separate strategies: `gap`, and for each eigenvalue beyond the first how far it
    is below what counts as zero, 1 at zero. The higher, the sooner to look at."""
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True, eq=False)
class Analysis:
    """The spectral relevance analysis of one explainer's maps."""

    views: dict[str, View]
    """By name, classes in order and the global one last."""
    grid: tuple[int, ...]
    """Shape of pooled maps."""
    n_samples: int
    """Maps that were given."""
    n_undefined: int
    """Of these, not finite or zero everywhere: they are in no view."""
    skipped: dict[int, int] = field(default_factory=dict)
    """Class to its number of maps, of classes with too few."""
    explainer: str = ""
    """Whose maps; empty outside a run."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Of `Spray`, as plain values."""

    @property
    def ranked(self) -> tuple[View, ...]:
        """The views of classes by `View.tau`, highest first."""
        of_classes = [view for view in self.views.values() if view.name != GLOBAL]
        return tuple(sorted(of_classes, key=_by_evidence))

    @property
    def clever_hans(self) -> tuple[tuple[View, Cluster], ...]:
        """The clusters that the counterfactual check confirmed, each with its view."""
        return tuple(
            (view, cluster)
            for view in self.ranked
            for cluster in view.clusters
            if cluster.verdict == CLEVER_HANS
        )


def _by_evidence(view: View) -> tuple[float, int]:
    return -view.tau, view.target
