"""What a spectral relevance analysis can be told."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from explainers.registry import suggest
from pipeline import parameters
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.config import RunConfig

Scope = Literal["class", "global"]
By = Literal["target", "prediction", "label"]
Sign = Literal["absolute", "positive", "signed"]


@dataclass(frozen=True)
class Spray:
    """Spectral relevance analysis of one explainer's maps (Lapuschkin et al. 2019)."""

    views: tuple[Scope, ...] = ("class", "global")
    """Whether the maps of each class are analysed by themselves, all of them together, or both."""
    by: By = "target"
    """What the class of a sample is: what was explained, what the network says, or the truth."""
    sign: Sign = "absolute"
    """What is kept of relevance once it is summed over channels."""
    grid: int | None = 16
    """Maps are summed over square cells, the least ones of which so many cover the longer side;
    every position is a cell if null."""
    n_components: int | None = 32
    """Directions of largest variance that maps are projected to; null for none."""
    n_neighbors: int = 10
    """Nearest other maps that a map is linked with."""
    n_eigenvalues: int = 16
    """Smallest eigenvalues of the Laplacian that are kept; their vectors are the embedding."""
    n_clusters: int | None = None
    """Clusters of a view; as many as its eigenvalues tell if null."""
    max_clusters: int = 6
    """Most clusters that eigenvalues can tell."""
    zero: float = 0.01
    """Eigenvalues below it count as zero: parts of the graph that hardly hang together."""
    min_samples: int = 50
    """Classes with fewer maps are left out; of two maps there is nothing to tell."""
    max_samples: int = 50_000
    """Of a view with more maps so many are drawn: time grows with the square."""
    n_medoids: int = 5
    """Samples nearest to the mean of a cluster that stand for it."""
    hot_share: float = 0.8
    """Share of the relevance that sets a cluster apart which its hot region has to hold."""
    hot_area: float = 0.05
    """Largest share of the picture that a hot region covers."""
    n_checked: int = 200
    """Most samples of each kind (inside, outside, of other classes) that a cluster is checked
    with; 0 for no check."""
    flip_rate: float = 0.5
    """Share of samples of other classes that a pasted region has to carry over to the class, at
    the lower end of its 95 % interval, for the cluster to be a Clever Hans."""
    seed: int = 0
    """Seeds what is drawn: samples to check, centres that k-means starts from."""

    def __post_init__(self) -> None:
        self._check_least()
        for name in ("hot_share", "hot_area", "flip_rate", "zero"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"got {name} {value!r}, expected a share above 0 and at most 1")
        is_known = set(self.views) <= set(get_args(Scope))
        if not is_known or not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"got views {self.views!r}, expected class, global or both, once each")
        for name, known in (("by", get_args(By)), ("sign", get_args(Sign))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"got {name} {getattr(self, name)!r}, expected one of {', '.join(known)}"
                )
        if self.n_eigenvalues <= max(self.max_clusters, self.n_clusters or 0):
            raise ValueError(
                f"got n_eigenvalues {self.n_eigenvalues!r}, expected more than max_clusters and "
                "n_clusters: the gap after the last cluster is between two eigenvalues"
            )
        if self.min_samples <= self.n_neighbors:
            raise ValueError(
                f"got min_samples {self.min_samples!r}, expected more than n_neighbors"
            )

    def _check_least(self) -> None:
        least = {
            "grid": 1,
            "n_components": 1,
            "n_neighbors": 1,
            "n_clusters": 1,
            "max_clusters": 2,
            "min_samples": 3,
            "max_samples": self.min_samples,
            "n_medoids": 1,
            "n_checked": 0,
            "seed": 0,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"got {name} {value!r}, expected at least {bound}")


def build(config: RunConfig, asked: Mapping[str, Any] | None = None) -> dict[str, Spray]:
    """Return the analyses of a run by explainer.

    Parameters
    ----------
    config
        The run's.
    asked
        Explainer to parameters; the section ``spray`` of the run file if not given.

    Raises
    ------
    ConfigError
        If there is no such explainer, a parameter is unknown or out of range, or scikit-learn is
        not installed.
    """
    found = {}
    given = config.spray if asked is None else asked
    if given and importlib.util.find_spec("sklearn") is None:
        raise missing_library()
    for name, values in given.items():
        if name not in config.explainers:
            raise ConfigError(
                f"{config.where('spray', name)}: the run has no explainer {name!r}; "
                f"{suggest(name, list(config.explainers))}",
                fix="name entries of the section explainers",
                page="unknown-name",
            )
        where = functools.partial(config.where, "spray", name)
        found[name] = parameters.build(Spray, values, where)
    return found


def missing_library() -> ConfigError:
    """Return the error of a spectral analysis without scikit-learn."""
    return ConfigError(
        "the spectral analysis of maps needs scikit-learn, which is not installed",
        fix='pip install "xpipe-xai[spray]"',
        page="missing-extra",
    )
