"""Which samples two runs share, and whether what they stored of them can be compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline import aggregate
from pipeline.conflict import differences
from pipeline.errors import XpipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.store import Run

NAMED = 5
"""Samples that a message names."""


class IncomparableError(XpipeError, ValueError):
    """What two runs have stored does not mean the same."""

    exit_code: ClassVar[int] = 3
    page_of_kind: ClassVar[str] = "incomparable-runs"


@dataclass(frozen=True, eq=False)
class Pairing:
    """Samples of two runs, by their ids: in the order of the current run."""

    before: NDArray[np.int64]
    """Row of each sample in the previous run."""
    metrics: tuple[tuple[Judged, Judged], ...]
    """Metrics that both were evaluated with, previous and current."""
    only_before: tuple[str, ...]
    """Metrics that the current run was not evaluated with."""
    only_after: tuple[str, ...]

    def known(self, name: str) -> Judged | None:
        """Return how a metric that both have was evaluated now."""
        return next((after for _, after in self.metrics if after.name == name), None)


def pair(previous: Run, current: Run) -> Pairing:
    """Return how the samples of two runs belong together.

    Raises
    ------
    IncomparableError
        If samples, labels, targets or parameters of metrics differ; the message names all.
    """
    found = [*_samples(previous, current), *_targets(previous, current)]
    before = {metric.name: metric for metric in aggregate.judged(previous)}
    after = {metric.name: metric for metric in aggregate.judged(current)}
    both = [name for name in after if name in before]
    for name in both:
        changed = differences(_meaning(before[name]), _meaning(after[name]), f"metric {name}: ")
        found += changed
    if found:
        listed = "\n".join(f"  {line}" for line in found)
        raise IncomparableError(
            f"{previous.path} (there) and {current.path} (here) cannot be compared:\n{listed}",
            fix="explain the same samples for the same targets, and evaluate both with the same "
            "parameters",
        )
    row = {name: position for position, name in enumerate(previous.manifest.sample_ids)}
    rows = [row[name] for name in current.manifest.sample_ids]
    return Pairing(
        before=np.asarray(rows, np.int64),
        metrics=tuple((before[name], after[name]) for name in both),
        only_before=tuple(name for name in before if name not in after),
        only_after=tuple(name for name in after if name not in before),
    )


def _samples(previous: Run, current: Run) -> Iterator[str]:
    before = dict(zip(previous.manifest.sample_ids, previous.manifest.labels, strict=True))
    after = dict(zip(current.manifest.sample_ids, current.manifest.labels, strict=True))
    lost = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    other = [name for name in after if name in before and after[name] != before[name]]
    for names, what in (
        (lost, "samples are there and not here"),
        (new, "samples are here and not there"),
        (other, "samples have another label"),
    ):
        if names:
            more = ", ..." if len(names) > NAMED else ""
            yield f"{len(names)} {what}: {', '.join(map(repr, names[:NAMED]))}{more}"


def _targets(previous: Run, current: Run) -> Iterator[str]:
    before, after = list(previous.plan.targets), list(current.plan.targets)
    if before != after:
        yield f"targets: {before!r} there, {after!r} here"


def _meaning(metric: Judged) -> dict[str, Any]:
    """Return what the scores of a metric depend on.

    A parameter that is newer than the scores has its default there.
    """
    built = metric.metric()
    now = {} if built is None else asdict(built)  # type: ignore[call-overload]
    parameters = json.loads(json.dumps({**now, **metric.parameters}, default=repr))
    return {
        "method": metric.method,
        "space": metric.space,
        "direction": metric.direction,
        "headline": metric.headline,
        "parameters": parameters,
    }
