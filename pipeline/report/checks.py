"""Whether explanations pass what any explanation should: checks of sanity, and their verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline import aggregate
from pipeline.comparisons import CONTROLS
from pipeline.metrics import metrics
from pipeline.plan import split_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.comparisons import Compared
    from pipeline.store import Run

RANDOMISATION, AXIOMS = "randomisation", "axioms"
FAMILIES = (RANDOMISATION, AXIOMS)
"""Of metrics that are checks: passed or not, more than better or worse."""
CHANGED, SAME = 0.5, 0.9
"""Mean similarity to the map of a randomised network, or of another class, below which a map counts
as another one, and from which as the same. Conventions: papers show curves and name no limit."""
CLOSE = 0.1
"""Relative residual up to which a sum is nearly complete."""
TOLERANCE = 0.01
"""Up to which it is complete, where the metric has no `tolerance`."""

Verdict = Literal["passes", "doubtful", "fails", "unknown"]


@dataclass(frozen=True)
class Check:
    """One explainer under one check."""

    metric: str
    explainer: str
    is_control: bool
    """Whether it knows no network, so that it should not pass a check of randomisation."""
    n: int
    """Samples with a score."""
    middle: float
    """Mean of the headline; its median under axioms, whose means a few samples rule."""
    low: float
    """Ends of the 95 % interval of the mean; of axioms, quartiles."""
    high: float
    verdict: Verdict
    says: str = ""
    """What it means, the same for all with this verdict under a check."""
    share: str = ""
    """On how many samples it holds, where that is known."""

    @property
    def because(self) -> str:
        """What the verdict means, in brackets."""
        return f" ({self.says})" if self.says else ""


@dataclass(frozen=True)
class Contest:
    """How explainers do against controls under one metric."""

    metric: str
    beating: tuple[str, ...]
    """Better than every control."""
    others: tuple[tuple[str, str], ...]
    """Explainer, and the control that it is not better than."""
    controls: tuple[str, ...]


def method_of(run: Run, name: str) -> str:
    """Return the registered method of an explainer's entry."""
    entry = split_name(name)[0]
    return str(run.config.explainers.get(entry, {}).get("method", entry))


def controls(run: Run, names: Sequence[str]) -> list[str]:
    """Return those of these explainers that know no network."""
    return [name for name in names if method_of(run, name) in CONTROLS]


def family(metric: Judged) -> str:
    """Return what a metric is about; empty where it is not installed."""
    return metrics.get(metric.method).family if metric.method in metrics.names() else ""


def checks(run: Run, metric: Judged) -> list[Check]:
    """Return the verdict on each explainer under a metric of `FAMILIES`, in the run's order."""
    return [
        _check(metric, name, values, is_control=method_of(run, name) in CONTROLS)
        for name in metric.explainers
        if (values := headline(run, metric, name)) is not None
    ]


def headline(run: Run, metric: Judged, name: str) -> NDArray[np.float64] | None:
    """Return the headline of each sample; None where it is not known."""
    column: Any = run.scores(metric.name, name).get(metric.headline)
    return None if column is None else np.asarray(column, np.float64)


def contest(compared: Compared) -> Contest | None:
    """Return who beats the controls, the best first; None if none was scored, or nothing else."""
    not_beaten = {
        standing.explainer: [
            control for control, row in standing.against.items() if row.verdict != "better"
        ]
        for standing in compared.standings
        if standing.against
    }
    if not not_beaten:
        return None
    return Contest(
        compared.metric.name,
        tuple(name for name, by in not_beaten.items() if not by),
        tuple((name, " and ".join(by)) for name, by in not_beaten.items() if by),
        compared.controls,
    )


def _check(metric: Judged, name: str, values: NDArray[np.float64], *, is_control: bool) -> Check:
    known = values[np.isfinite(values)]
    if family(metric) == AXIOMS:
        low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else (np.nan,) * 3
        tolerance = float(metric.parameters.get("tolerance", TOLERANCE))
        verdict, says = _of_residual(float(middle), tolerance)
        share = f"adds up at {100 * (known <= tolerance).mean():.0f} %" if len(known) else ""
    else:
        found = aggregate.summarise(known[:, None])
        low, middle, high = found.low[0], found.mean[0], found.high[0]
        judge = _of_similarity if metric.direction == "lower" else _of_gain
        verdict, says = judge(float(low), float(middle), float(high))
        share = ""
    return Check(
        metric.name,
        name,
        is_control,
        len(known),
        float(middle),
        float(low),
        float(high),
        verdict,
        says,
        share,
    )


def _of_similarity(low: float, middle: float, high: float) -> tuple[Verdict, str]:
    """Return the verdict on how similar maps stay that should not: 1 is the same map."""
    if np.isnan(middle):
        return "unknown", ""
    if middle >= SAME:
        return "fails", "maps stay what they were"
    if middle >= CHANGED:
        return "doubtful", "maps keep much of what they were"
    return "passes", "maps become others"


def _of_gain(low: float, middle: float, high: float) -> tuple[Verdict, str]:
    """Return the verdict on what should be more than nothing."""
    if np.isnan(middle):
        return "unknown", ""
    if low > 0:
        return "passes", "maps become others"
    if high <= 0:
        return "fails", "maps do not become more disordered"
    return "doubtful", "no change can be told"


def _of_residual(middle: float, tolerance: float) -> tuple[Verdict, str]:
    """Return the verdict on residuals relative to what maps should sum to."""
    if np.isnan(middle):
        return "unknown", ""
    if middle <= tolerance:
        return "passes", "maps add up"
    if middle <= CLOSE:
        return "doubtful", "maps nearly add up"
    return "fails", "maps do not add up"
