"""Scores of samples summed up: means with confidence intervals, overall, per class, by outcome."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.errors import XpipeError
from pipeline.metrics import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.metrics import Direction, Metric
    from pipeline.store import Run

ALL = "all"
MACRO = "macro"
CORRECT = "correct"
MISCLASSIFIED = "misclassified"
_FIRST_T = (12.706, 4.303, 3.182, 2.776, 2.571)
"""97.5 % quantiles of Student's t for one to five degrees of freedom."""


@dataclass(frozen=True)
class Judged:
    """A metric as it was evaluated on a run."""

    name: str
    """Its entry in the run file."""
    method: str
    """The registered metric."""
    parameters: dict[str, Any]
    """All of them."""
    direction: Direction
    """Which end of the headline is better: ``higher`` or ``lower``."""
    space: str
    """Which output was compared: ``logit``, ``probability`` or ``none``."""
    headline: str
    """The column that stands for the metric."""
    explainers: tuple[str, ...]
    """Whose maps were scored."""
    digest: str
    """Of run and parameters."""

    def metric(self) -> Metric | None:
        """Return the metric; None where it is not installed, or not as it was."""
        try:
            return build(self.name, {"method": self.method, **self.parameters})
        except (LookupError, XpipeError):
            return None

    def write(self, folder: paths.Folder) -> None:
        """Write it beside the scores."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        folder.write(paths.judged_path(self.name), text.encode())


@dataclass(frozen=True)
class Aggregate:
    """One column of one metric for one explainer over one group of samples."""

    metric: str
    explainer: str
    column: str
    """A scalar such as ``auc``, or a curve."""
    step: int
    """Position in a curve; -1 for scalars."""
    group: str
    """``all``, ``macro`` (the mean of class means), ``class:<index>``, ``correct`` or
    ``misclassified``."""
    n: int
    """Samples with a defined score."""
    n_undefined: int
    """Samples without: failed ones, and maps that the metric has no score for."""
    mean: float
    std: float
    """Of the sample (n - 1)."""
    low: float
    """Lower end of the 95 % confidence interval of the mean (Student's t)."""
    high: float
    """Upper end."""
    median: float
    direction: str
    space: str


def judged(run: Run) -> list[Judged]:
    """Return the metrics that were evaluated on a run, in the order of its run file."""
    folder = paths.Folder(str(run.path))
    found = []
    for name in folder.entries(paths.SCORES):
        if folder.exists(paths.judged_path(name)):
            values = json.loads(folder.read(paths.judged_path(name)))
            found.append(Judged(**{**values, "explainers": tuple(values["explainers"])}))
    order = {name: position for position, name in enumerate(run.config.metrics)}
    return sorted(found, key=lambda metric: (order.get(metric.name, len(order)), metric.name))


def aggregates(run: Run) -> list[Aggregate]:
    """Return all aggregates of what has been evaluated so far."""
    groups = _groups(run)
    return [
        row
        for metric in judged(run)
        for explainer in metric.explainers
        for column, values in run.scores(metric.name, explainer).items()
        for row in _column(metric, explainer, column, np.asarray(values), groups)
    ]


def headlines(run: Run, metric: Judged) -> list[Aggregate]:
    """Return the aggregates of one metric's headline."""
    groups = _groups(run)
    return [
        row
        for explainer in metric.explainers
        for column, values in run.scores(metric.name, explainer).items()
        if column == metric.headline
        for row in _column(metric, explainer, column, np.asarray(values), groups)
    ]


def write(run: Run) -> list[Aggregate]:
    """Write aggregates.parquet and return what is in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = aggregates(run)
    columns = {
        field.name: [getattr(row, field.name) for row in rows] for field in fields(Aggregate)
    }
    buffer = BytesIO()
    pq.write_table(pa.table(columns), buffer)
    paths.Folder(str(run.path)).write(paths.AGGREGATES, buffer.getvalue())
    return rows


def facts(run: Run) -> dict[str, list[Any]]:
    """Return who the samples of the finished shards are and what the network said."""
    columns = ("index", "sample_id", "label", "prediction", "status")
    known: dict[str, list[Any]] = run.samples().to_pydict()
    return {name: [] for name in columns} | known


def _groups(run: Run) -> dict[str, NDArray[np.bool_]]:
    """Return which samples belong to which group."""
    known_facts = facts(run)
    n = run.plan.n_samples
    label, prediction = np.full(n, -1), np.full(n, -1)
    label[known_facts["index"]] = known_facts["label"]
    prediction[known_facts["index"]] = known_facts["prediction"]
    groups = {ALL: np.ones(n, bool)}
    known = (label >= 0) & (prediction >= 0)
    if known.any():
        groups[CORRECT] = known & (label == prediction)
        groups[MISCLASSIFIED] = known & (label != prediction)
    classes = label if (label >= 0).any() else prediction
    return groups | {
        f"class:{index}": classes == index for index in np.unique(classes[classes >= 0])
    }


def _column(
    metric: Judged,
    explainer: str,
    column: str,
    values: NDArray[Any],
    groups: Mapping[str, NDArray[np.bool_]],
) -> Iterator[Aggregate]:
    steps = values.reshape(len(values), -1)  # (samples, steps)
    summaries = {group: summarise(steps[members]) for group, members in groups.items()}
    by_class = [summary for group, summary in summaries.items() if group.startswith("class:")]
    if by_class:
        summaries[MACRO] = _macro(by_class)
    for group, summary in summaries.items():
        for step in range(steps.shape[1]):
            yield Aggregate(
                metric=metric.name,
                explainer=explainer,
                column=column,
                step=step if values.ndim > 1 else -1,
                group=group,
                direction=metric.direction,
                space=metric.space,
                **summary.at(step),
            )


@dataclass(frozen=True)
class Summary:
    """Moments and intervals of columns, ``(columns,)`` each; NaN values count as undefined."""

    n: NDArray[np.int64]
    n_undefined: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    median: NDArray[np.float64]

    def at(self, column: int) -> dict[str, Any]:
        """Return one column's values by name."""
        return {field.name: getattr(self, field.name)[column].item() for field in fields(self)}


def summarise(values: NDArray[Any]) -> Summary:
    """Return the summary of each column of ``(samples, columns)``."""
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    n = defined.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, values, 0.0).sum(axis=0) / n
        square = (np.where(defined, values - mean, 0.0) ** 2).sum(axis=0)
        std = np.sqrt(square / (n - 1))  # NaN for one sample: its spread is not known
        half = student_t(n - 1) * std / np.sqrt(n)
    median = np.array(
        [_median(column[keep]) for column, keep in zip(values.T, defined.T, strict=True)]
    )
    return Summary(n, len(values) - n, mean, std, mean - half, mean + half, median)


def student_t(degrees: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the 97.5 % quantile of Student's t (Abramowitz & Stegun 26.7.5, to 1e-3)."""
    z = 1.959964
    v = np.maximum(degrees, 1).astype(np.float64)
    series = (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
    table = np.array(_FIRST_T)[np.clip(degrees - 1, 0, len(_FIRST_T) - 1)]
    return np.where(degrees <= len(_FIRST_T), table, series)


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _macro(classes: list[Summary]) -> Summary:
    """Return the mean of class means, each class weighing the same; empty classes are left out."""
    mean = np.stack([summary.mean for summary in classes])  # (classes, columns)
    variance = np.stack([summary.std**2 / np.maximum(summary.n, 1) for summary in classes])
    present = ~np.isnan(mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        k = present.sum(axis=0)
        centre = np.where(present, mean, 0.0).sum(axis=0) / k
        half = 1.959964 * np.sqrt(np.where(present, variance, 0.0).sum(axis=0)) / k
        spread = np.sqrt((np.where(present, mean - centre, 0.0) ** 2).sum(axis=0) / (k - 1))
    medians = np.array([_median(c[keep]) for c, keep in zip(mean.T, present.T, strict=True)])
    return Summary(
        n=np.sum([summary.n for summary in classes], axis=0),
        n_undefined=np.sum([summary.n_undefined for summary in classes], axis=0),
        mean=centre,
        std=spread,
        low=centre - half,
        high=centre + half,
        median=medians,
    )
