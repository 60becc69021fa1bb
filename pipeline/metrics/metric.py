"""What a metric is: what is prepared once for all explainers, and what each map scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from explainers.registry import Registry
from pipeline.parameters import build as build_dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

RESERVED = ("method", "explainers")
"""What a metric's entry in a run file can say beside parameters: which metric it is, and whose maps
it scores."""

Direction = Literal["higher", "lower"]
Space = Literal["logit", "probability", "none"]


@dataclass(frozen=True, eq=False)
class Case:
    """One batch that is to be scored; the same for all explainers."""

    trace: Trace | None
    """The batch in the network; None for metrics that read maps alone."""
    target: Target
    """What was explained."""
    mask: Tensor | None = None
    """Where the object is, bool, ``(batch, height, width)``."""
    graph: Any = None
    """Graph of the data set, for metrics of graphs."""
    explainer: Any = None
    """The bound explainer, for metrics that explain again: see `Subject.explainer`."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """What `Metric.prepare` made for all explainers."""

    def sharing(self, **made: Any) -> Case:
        """Return the case with this shared, too."""
        return replace(self, shared={**self.shared, **made})

    def network_trace(self) -> Trace:
        """Return the trace.

        Raises
        ------
        ValueError
            If the case was made without a network.
        """
        if self.trace is None:
            raise ValueError("got no model, expected one: this metric runs the network again")
        return self.trace


@dataclass(frozen=True, eq=False)
class Subject:
    """What is scored of a batch: the maps of one explainer, or the graphs of one scan."""

    relevance: Tensor
    """Maps of the batch, ``(batch, ...)``; empty where graphs are scored."""
    explainer: Any = None
    """What made them, for metrics that explain again: an object with ``explain(trace, target)``,
    or with ``attribute(inputs, target)``, both of which return maps."""
    graph: Any = None
    """Graph of the data set, for metrics of graphs."""


@dataclass(frozen=True, eq=False)
class Statistic:
    """What is said of a group of samples as a whole; a number, ``()``, or a curve ``(steps,)``."""

    value: NDArray[Any]
    low: NDArray[Any]
    """Lower end of its 95 % confidence interval; NaN where none is known."""
    high: NDArray[Any]
    """Upper end."""


@dataclass(frozen=True)
class Curve:
    """How a column of curves is drawn."""

    column: str
    x: tuple[float, ...]
    """Where its steps are, in the order of the column."""
    x_label: str
    y_label: str
    area: str
    """The scalar column that sums the curve up."""
    direction: Direction
    """Which end of `area` is better."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Between which values a mean can lie."""
    error: str = ""
    """Column of the Monte-Carlo standard error of each step, if there is one."""
    control: str = ""
    """Column of the curve that any explainer should beat, the same for all, if there is one."""
    control_area: str = ""
    """The scalar column that sums the control up."""


class Metric(ABC):
    """A score of explanations. Subclasses are frozen dataclasses of their parameters.

    Scores must not depend on the other samples of the batch: a score is the same in any sharding.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    """Faithfulness, complexity, robustness, localisation, randomisation, axioms."""
    headline: ClassVar[str]
    """The scalar column that stands for the metric in tables."""
    returned: ClassVar[str] = ""
    """The column that `score` returns to a library user; the headline if empty."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Facts it has to have: ``network``, ``masks``, ``explainer``, ``graph``."""
    shares: ClassVar[frozenset[str]] = frozenset()
    """Columns that say of a sample whether something holds, 1 or 0, or how often: their means are
    shares, and have a share's intervals."""
    directions: ClassVar[Mapping[str, Direction]] = {}
    """Which end of further columns is better; of the headline and of the areas of `curves` it is
    known, and of what is not named anywhere neither end is."""

    @property
    @abstractmethod
    def direction(self) -> Direction:
        """Which end of the headline is better."""

    @property
    def space(self) -> Space:
        """Which output of the network is compared."""
        return "none"

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curves that a report draws of samples of this shape.

        What is not named is not drawn; of a metric that names none, every curve is.
        """
        return ()

    def direction_of(self, column: str, shape: tuple[int, ...]) -> Direction | Literal[""]:
        """Return which end of a column is better for samples of this shape; empty if neither is."""
        if column == self.headline:
            return self.direction
        if column in self.directions:
            return self.directions[column]
        of_areas = {curve.area: curve.direction for curve in self.curves(shape)}
        return of_areas.get(column, "")

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse samples that it cannot score, before any is explained; takes no forward pass.

        Parameters
        ----------
        network
            Whose outputs are explained: where a unit of a layer is, the part that ends there. None
            where nobody has read it; never for metrics that require ``network``.
        shape
            Of a sample, without the batch axis.
        target
            What is explained, an output of `network`.

        Raises
        ------
        ValueError, LookupError, TypeError, ImportError, NotImplementedError, PlanError
            If a parameter does not fit, or a library is missing.
        """
        return

    def prepare(self, case: Case) -> Case:
        """Return the case with what all explainers share; called once per batch."""
        return case

    @abstractmethod
    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return one row per sample: scalars ``(batch,)`` and curves ``(batch, steps)``.

        A map that is not finite scores NaN.
        """

    def scores(self, case: Case, subjects: Mapping[str, Subject]) -> dict[str, dict[str, Tensor]]:
        """Return what `score` returns for each of several explainers of one batch.

        What they share is made once.

        Parameters
        ----------
        case
            The batch; its explainer and graph are those of each subject in turn.
        subjects
            Whose maps are scored, by name.
        """
        prepared = self.prepare(case)
        return {
            name: self.score(
                replace(prepared, explainer=each.explainer, graph=each.graph), each.relevance
            )
            for name, each in subjects.items()
        }

    def across(self, columns: Mapping[str, NDArray[Any]]) -> Mapping[str, Statistic]:
        """Return what is known of a group of samples only, and not of one; for most, nothing.

        Parameters
        ----------
        columns
            What `score` returned for the samples of the group, one row each.
        """
        return {}


metrics: Registry[type[Metric]] = Registry("metric", ("pipeline.metrics",), "xpipe.metrics")


def register(name: str) -> Callable[[type[Metric]], type[Metric]]:
    """Return a decorator that enters a metric under `name` and tells it its name."""

    def enter(metric: type[Metric]) -> type[Metric]:
        metric.name = name
        return metrics.register(name)(metric)

    return enter


def build(name: str, settings: Mapping[str, Any], where: str = "") -> Metric:
    """Return the metric that a run file's entry asks for; ``method`` defaults to its name.

    Whose maps it scores, ``explainers``, is no part of it.

    Raises
    ------
    LookupError
        If there is no such metric.
    pipeline.errors.ConfigError
        If a parameter is unknown or out of range.
    """
    chosen = {key: value for key, value in settings.items() if key not in RESERVED}
    kind = metrics.get(str(settings.get("method", name)))
    metric: Metric = build_dataclass(kind, chosen, where or f"metrics.{name}")
    return metric


def available() -> list[dict[str, Any]]:
    """Return what is known of every metric, at its default parameters."""
    rows = []
    for name in metrics.names():
        kind = metrics.get(name)
        metric = build(name, {})
        rows.append(
            {
                "name": name,
                "family": kind.family,
                "direction": metric.direction,
                "space": metric.space,
                "requires": sorted(kind.requires),
                "headline": kind.headline,
                "summary": (kind.__doc__ or "").strip().split("\n", 1)[0],
                "parameters": {f.name: getattr(metric, f.name) for f in fields(metric)},  # type: ignore[arg-type]
            }
        )
    return rows
