"""What is said of two runs: frozen values that JSON can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Change = Literal["better", "worse", "changed", "unclear", "same", "unknown"]


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    path: str
    name: str
    digest: str
    """Of the run."""
    weights: str
    """Digest of the weights."""
    n_samples: int
    accuracy: float
    """Share of the samples with a label that the network gets right; NaN if there are none."""


@dataclass(frozen=True)
class ScoreDrift:
    """How a score has changed, over the samples that have it in both runs."""

    metric: str
    explainer: str
    column: str
    group: str
    """``all``, or ``class:<index>`` (of headlines)."""
    direction: str
    """Which end is better; empty where that is not known of the column."""
    n: int
    """Samples with a defined score in both."""
    n_before: int
    """Samples with a defined score before."""
    n_after: int
    n_rows: int
    """Samples of the group."""
    n_scored_before: int
    """Samples in shards that were scored before, defined or not."""
    n_scored_after: int
    before: float
    """Mean over the n samples."""
    after: float
    change: float
    """Mean of after - before."""
    low: float
    """Lower end of the 95 % interval of the change (Student's t)."""
    high: float
    p: float
    """Wilcoxon's signed rank test; NaN for classes, which are not tested."""
    p_holm: float
    """The same, adjusted by Holm over the explainers of the column."""
    delta: float
    """Cliff's delta."""
    dominance: float
    """Share of samples whose score has grown, less the share whose score has fallen."""
    verdict: Change
    """``better`` or ``worse`` if `p_holm` is below 0.05 and neither the mean nor the majority of
    samples says the opposite, ``changed`` if nothing says which end is better, else ``unclear``;
    ``same`` if no score differs, ``unknown`` of fewer than two samples and of what is not tested:
    classes."""


@dataclass(frozen=True)
class Summed:
    """A measure of agreement over samples."""

    n: int
    """Samples where it is defined."""
    mean: float
    low: float
    """Lower end of the 95 % interval of the mean."""
    high: float
    median: float
    least: float


@dataclass(frozen=True)
class ClassProfile:
    """How the maps of one class have changed."""

    label: int
    """The class; of samples without a label, the one that is predicted now."""
    n: int
    rank_correlation: float
    """Mean over its samples."""
    ndcg: float
    moved: float
    """Mean over its samples."""
    profile_moved: float
    """Share of relevance that is elsewhere in the class's mean map: what does not average out."""


@dataclass(frozen=True)
class Worst:
    """A sample whose map has changed most."""

    sample_id: str
    row_before: int
    row_after: int
    label: int
    prediction_before: int
    prediction_after: int
    rank_correlation: float
    ndcg: float
    moved: float


@dataclass(frozen=True)
class MapDrift:
    """How the maps of an explainer have changed."""

    explainer: str
    n: int
    """Samples with a finite map in both."""
    n_identical: int
    """Samples whose maps are the same to the bit."""
    rank_correlation: Summed
    """Spearman's, of the map before and after."""
    ndcg: Summed
    """Of the top features after, with relevance before as gain."""
    moved: Summed
    """Share of relevance that is elsewhere."""
    same_prediction: Summed
    """The rank correlation over samples with the same prediction in both."""
    classes: tuple[ClassProfile, ...]
    """Those that changed most first."""
    worst: tuple[Worst, ...]
    """Those that correlate least first."""


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same samples."""

    previous: Side
    current: Side
    n_samples: int
    n_predictions_changed: int
    changes: tuple[str, ...]
    """Fields of the run file that differ, and weights and code."""
    notes: tuple[str, ...]
    """What was not compared, and why."""
    scores: tuple[ScoreDrift, ...]
    maps: tuple[MapDrift, ...]
