"""Scores of samples summed up: means with confidence intervals, overall, per class, by outcome."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.errors import XpipeError
from pipeline.metrics import Metric, build
from pipeline.plan import suffix
from pipeline.statistics.summaries import (
    Summary,
    macro,
    macro_of_shares,
    of_shares,
    stacked,
    student_t,
    summarise,
    summarise_groups,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.metrics import Direction, Statistic
    from pipeline.store import Run

__all__ = [
    "ALL",
    "CLASS",
    "CORRECT",
    "MACRO",
    "MISCLASSIFIED",
    "Aggregate",
    "Block",
    "Groups",
    "Judged",
    "Summary",
    "aggregates",
    "blocks",
    "facts",
    "groups_of",
    "headlines",
    "judged",
    "student_t",
    "summarise",
    "write",
]

ALL = "all"
MACRO = "macro"
CORRECT = "correct"
MISCLASSIFIED = "misclassified"
CLASS = "class:"
"""Start of the name of a group that is a class."""


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

    def direction_of(self, column: str, shape: tuple[int, ...]) -> str:
        """Return which end of a column is better for samples of this shape; empty if unknown.

        Columns of further targets end in their number.
        """
        name = column.removesuffix(_ending(column))
        if name == self.headline:
            return self.direction
        built = self.metric()
        return "" if built is None else built.direction_of(name, tuple(shape))

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
    """Lower end of the 95 % confidence interval of the mean: Student's t, Wilson's for shares of
    hits."""
    high: float
    """Upper end."""
    median: float
    direction: str
    """Which end of the column is better; empty where neither is."""
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


@dataclass(frozen=True)
class Groups:
    """Which samples of a run belong together."""

    named: Mapping[str, NDArray[np.int64]]
    """Rows of ``all``, and of ``correct`` and ``misclassified`` where labels are known."""
    classes: NDArray[np.int64]
    """Index of class per sample, -1 where it is not known: the label, else the prediction."""

    @cached_property
    def by_class(self) -> NDArray[np.int64]:
        """Rows of known class, one class after another."""
        order = np.argsort(self.classes, kind="stable")
        return order[np.count_nonzero(self.classes < 0) :]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each class begins in `by_class`."""
        return np.unique(self.classes[self.by_class], return_index=True)[1]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """``class:<index>`` of each class that has samples."""
        return tuple(f"{CLASS}{index}" for index in np.unique(self.classes[self.by_class]))

    def rows(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield name and rows of every group."""
        yield from self.named.items()
        yield from zip(
            self.class_names,
            np.split(self.by_class, self.starts[1:]) if len(self.starts) else (),
            strict=True,
        )


def groups_of(run: Run) -> Groups:
    """Return which samples belong to which group, by label and prediction."""
    known_facts = facts(run)
    n = run.plan.n_samples
    label, prediction = np.full(n, -1), np.full(n, -1)
    label[known_facts["index"]] = known_facts["label"]
    prediction[known_facts["index"]] = known_facts["prediction"]
    named = {ALL: np.arange(n)}
    known = (label >= 0) & (prediction >= 0)
    if known.any():
        named[CORRECT] = np.flatnonzero(known & (label == prediction))
        named[MISCLASSIFIED] = np.flatnonzero(known & (label != prediction))
    return Groups(named, label if (label >= 0).any() else prediction)


@dataclass(frozen=True)
class Block:
    """Everything that is said of one column of one metric for one explainer."""

    metric: Judged
    explainer: str
    column: str
    direction: str
    is_curve: bool
    groups: tuple[str, ...]
    summary: Summary
    """``(groups, steps)``."""

    def table(self) -> dict[str, Any]:
        """Return the fields of `Aggregate` as columns, one row per group and step."""
        n_groups, n_steps = self.summary.n.shape
        steps = np.arange(n_steps) if self.is_curve else np.array([-1])
        of_metric = {
            "metric": self.metric.name,
            "explainer": self.explainer,
            "column": self.column,
            "direction": self.direction,
            "space": self.metric.space,
        }
        known = {name: [value] * (n_groups * n_steps) for name, value in of_metric.items()}
        known["step"] = np.tile(steps, n_groups).tolist()
        known["group"] = np.repeat(self.groups, n_steps).tolist()
        for field in fields(Summary):
            known[field.name] = getattr(self.summary, field.name).reshape(-1).tolist()
        return {field.name: known[field.name] for field in fields(Aggregate)}

    def rows(self) -> Iterator[Aggregate]:
        """Yield them one by one."""
        yield from (Aggregate(*row) for row in zip(*self.table().values(), strict=True))


def aggregates(run: Run) -> list[Aggregate]:
    """Return all aggregates of what has been evaluated so far."""
    groups = groups_of(run)
    return [
        row
        for metric in judged(run)
        for block in blocks(run, metric, groups)
        for row in block.rows()
    ]


def headlines(run: Run, metric: Judged) -> list[Aggregate]:
    """Return the aggregates of one metric's headline."""
    found = blocks(run, metric, groups_of(run), metric.headline)
    return [row for block in found for row in block.rows()]


def write(run: Run) -> list[Aggregate]:
    """Write aggregates.parquet and return what it holds of columns of scalars.

    Curves of many classes would be more objects than a process holds; they are in the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups, rows, buffer = groups_of(run), [], BytesIO()
    schema = pa.schema([(field.name, _ARROW[str(field.type)]) for field in fields(Aggregate)])
    with pq.ParquetWriter(buffer, schema) as writer:
        for metric in judged(run):
            for block in blocks(run, metric, groups):
                writer.write_table(pa.table(block.table(), schema))
                rows += [] if block.is_curve else list(block.rows())
    paths.Folder(str(run.path)).write(paths.AGGREGATES, buffer.getvalue())
    return rows


_ARROW = {"str": "string", "int": "int64", "float": "float64"}
"""Types of the file by those of the fields."""


def facts(run: Run) -> dict[str, list[Any]]:
    """Return who the samples of the finished shards are and what the network said."""
    columns = ("index", "sample_id", "label", "prediction", "status")
    known: dict[str, list[Any]] = run.samples().to_pydict()
    return {name: [] for name in columns} | known


def blocks(run: Run, metric: Judged, groups: Groups, only: str = "") -> Iterator[Block]:
    """Yield what is said of each column, and of each statistic of groups, or of one of them.

    Parameters
    ----------
    run
        The run.
    metric
        What was scored.
    groups
        From `groups_of`.
    only
        The one column that is asked for; all of them if empty.
    """
    built, shape = metric.metric(), run.plan.input_shape
    shares = frozenset() if built is None else built.shares
    for explainer in metric.explainers:
        columns = run.scores(metric.name, explainer)
        across: list[Block] = []
        if built is not None and type(built).across is not Metric.across:
            across = list(_across(metric, built, explainer, columns, groups, only, shape))
        # a column that has no value for one sample stands for what is said of groups
        said = {block.column for block in across}
        for column, values in columns.items():
            if only in ("", column) and column not in said:
                is_share = column.removesuffix(_ending(column)) in shares
                names, summary = _summarised(np.asarray(values), groups, is_share=is_share)
                side = metric.direction_of(column, shape)
                yield Block(metric, explainer, column, side, values.ndim > 1, names, summary)
        yield from across


def _summarised(
    values: NDArray[Any], groups: Groups, *, is_share: bool
) -> tuple[tuple[str, ...], Summary]:
    """Return the groups and what is said of each, the mean of classes last."""
    steps = values.reshape(len(values), -1)  # (samples, steps)
    names = (*groups.named, *groups.class_names)
    parts = [summarise(steps[rows]) for rows in groups.named.values()]
    if len(groups.starts):
        parts.append(summarise_groups(steps[groups.by_class], groups.starts))
    parts = [of_shares(each) for each in parts] if is_share else parts
    if not len(groups.starts):
        return names, stacked(parts)
    whole = macro_of_shares(parts[-1]) if is_share else macro(parts[-1])
    return (*names, MACRO), stacked([*parts, whole])


def _across(
    metric: Judged,
    built: Metric,
    explainer: str,
    columns: Mapping[str, NDArray[Any]],
    groups: Groups,
    only: str,
    shape: tuple[int, ...],
) -> Iterator[Block]:
    """Yield what a metric says of groups of samples and not of one."""
    for ending in dict.fromkeys(map(_ending, columns)):
        of_target = {
            name.removesuffix(ending): values
            for name, values in columns.items()
            if _ending(name) == ending
        }
        known = np.any([_known(values) for values in of_target.values()], axis=0)
        found: dict[str, list[tuple[str, Statistic, NDArray[np.bool_]]]] = {}
        for group, rows in groups.rows():
            members = {name: values[rows] for name, values in of_target.items()}
            for name, statistic in built.across(members).items():
                found.setdefault(name + ending, []).append((group, statistic, known[rows]))
        for name, said in found.items():
            if only in ("", name):
                yield _block(metric, explainer, name, metric.direction_of(name, shape), said)


def _block(
    metric: Judged,
    explainer: str,
    column: str,
    side: str,
    said: list[tuple[str, Statistic, NDArray[np.bool_]]],
) -> Block:
    names = tuple(group for group, _, _ in said)
    value, low, high = (
        np.stack([np.reshape(getattr(each, part), -1) for _, each, _ in said]).astype(np.float64)
        for part in ("value", "low", "high")
    )
    n = np.array([[known.sum()] for _, _, known in said]) + np.zeros(value.shape, np.int64)
    size = np.array([[len(known)] for _, _, known in said])
    unknown = np.full(value.shape, np.nan)
    summary = Summary(n, size - n, value, unknown, low, high, unknown)
    return Block(metric, explainer, column, side, np.ndim(said[0][1].value) > 0, names, summary)


def _ending(column: str) -> str:
    """Return the suffix of the target that a column is of."""
    _, dot, number = column.rpartition(".")
    return dot + number if dot and number.isdecimal() else suffix(0)


def _known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether anything is known of each sample, ``(samples,)``."""
    known: NDArray[np.bool_] = ~np.isnan(values.reshape(len(values), -1)).all(axis=1)
    return known
