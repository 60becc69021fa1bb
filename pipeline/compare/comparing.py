"""Compare two runs on the same samples: scores, and the maps themselves."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from pipeline.compare import map_drift
from pipeline.compare.comparison import Comparison, Side
from pipeline.compare.pairing import pair
from pipeline.compare.score_drift import Scores, n_scored
from pipeline.conflict import changes
from pipeline.scorable import explained
from pipeline.store import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.compare.comparison import MapDrift
    from pipeline.compare.pairing import Pairing
    from pipeline.store import Run


def compare(previous: str | PurePath | Run, current: str | PurePath | Run) -> Comparison:
    """Return what has changed from one run to another on the same samples.

    The runs may differ in everything but samples, targets and parameters of metrics: in the model,
    the date, the order of the samples, the sizes of shards. Maps are read shard by shard.

    Parameters
    ----------
    previous, current
        The runs' folders, or the opened runs.

    Raises
    ------
    IncomparableError
        If samples, labels, targets or metrics differ; the message says which.
    """
    before, after = opened(previous), opened(current)
    pairing = pair(before, after)
    rows = map_drift.rows_of(before, after, pairing.before)
    scores = Scores(before, after, pairing, rows.classes)
    return Comparison(
        previous=_side(before, rows.prediction_before, rows.labels),
        current=_side(after, rows.prediction_after, rows.labels),
        n_samples=len(rows.before),
        n_predictions_changed=_n_changed(rows),
        changes=tuple(_changes(before, after)),
        notes=tuple(_notes(before, after, pairing)),
        scores=tuple(row for _, metric in pairing.metrics for row in scores.drift(metric)),
        maps=tuple(_maps(before, after, rows)),
    )


def opened(run: str | PurePath | Run) -> Run:
    """Return a run, opened if it is given by its folder."""
    return open_run(run) if isinstance(run, (str, PurePath)) else run


def _maps(before: Run, after: Run, rows: map_drift.Rows) -> Iterator[MapDrift]:
    for name, spec in after.plan.maps.items():
        if name in before.plan.maps and not map_drift.misfit(before.plan.maps[name], spec):
            yield map_drift.drift(name, before, after, rows)


def _side(run: Run, prediction: NDArray[np.int64], labels: NDArray[np.int64]) -> Side:
    known = (labels >= 0) & (prediction >= 0)
    return Side(
        path=str(run.path),
        name=run.config.name,
        digest=run.plan.digest,
        weights=run.plan.weights_digest,
        n_samples=run.plan.n_samples,
        accuracy=float((labels == prediction)[known].mean()) if known.any() else float("nan"),
    )


def _n_changed(rows: map_drift.Rows) -> int:
    known = (rows.prediction_before >= 0) & (rows.prediction_after >= 0)
    return int((rows.prediction_before != rows.prediction_after)[known].sum())


def _changes(before: Run, after: Run) -> Iterator[str]:
    yield from changes(before, after.config)
    for field, what in {"weights_digest": "the weights", "code_digest": "the code"}.items():
        if getattr(before.plan, field) != getattr(after.plan, field):
            yield f"{what} changed"


def _notes(before: Run, after: Run, pairing: Pairing) -> Iterator[str]:
    yield from _same_names(before, after)
    yield from _other_content(before, after)
    for run, where in ((before, "there"), (after, "here")):
        yield from _unfinished(run, where, [pair[where == "here"] for pair in pairing.metrics])
    yield from _only("evaluated with", pairing.only_before, pairing.only_after)
    for old, new in pairing.metrics:
        lost = tuple(name for name in old.explainers if name not in new.explainers)
        added = tuple(name for name in new.explainers if name not in old.explainers)
        yield from _only(f"{new.name} scored", lost, added)
    for name in dict.fromkeys((*before.plan.maps, *after.plan.maps)):
        if name not in after.plan.maps or name not in before.plan.maps:
            yield f"maps of {name} are {'here' if name in after.plan.maps else 'there'} only"
            continue
        reason = map_drift.misfit(before.plan.maps[name], after.plan.maps[name])
        if reason:
            yield f"{name}: {reason}"
    if after.plan.has_target_dimension:
        yield "of several targets, maps of the first are compared"
    yield from _clusters(before, after)


def _other_content(before: Run, after: Run) -> Iterator[str]:
    """Tell samples that have one id and another content, as far as both runs know."""
    other = after.manifest.changed(before.manifest)
    if other:
        yield (
            f"{len(other)} samples have the same id and another content, the first is {other[0]!r}"
        )


def _clusters(before: Run, after: Run) -> Iterator[str]:
    """Yield in which classes clusters of maps are confirmed as Clever Hans now and not before."""
    for name, analysis in after.spray.items():
        was_asked = name in before.spray
        known = {view.name for view, _ in before.spray[name].clever_hans} if was_asked else set()
        new = dict.fromkeys(view.name for view, _ in analysis.clever_hans if view.name not in known)
        if new:
            was = "was not there" if was_asked else "was not asked for there"
            yield f"{name}: a Clever Hans is confirmed here in {', '.join(new)}, which {was}"


def _same_names(before: Run, after: Run) -> Iterator[str]:
    """Yield that names are all that makes samples the same, where they may be other ones."""
    there, here = before.config.data, after.config.data
    if (there.source, there.parameters) != (here.source, here.parameters):
        yield (
            "samples are the same by their names and labels; the data are read from elsewhere or "
            "otherwise, and whether the inputs are the same was not looked at"
        )


def _unfinished(run: Run, where: str, metrics: list[Judged]) -> Iterator[str]:
    """Yield how many samples lack maps or scores, where there are such."""
    n_samples = run.plan.n_samples
    n_waiting = n_samples - sum(len(shard) for shard in explained(run))
    n_failed = len(run.failures())
    if n_waiting:
        yield f"{n_waiting} of {n_samples} samples have no maps {where}"
    if n_failed:
        yield f"{n_failed} of {n_samples} samples failed {where}"
    for metric in metrics:
        counts = n_scored(run, metric)
        # what has no map has no score: said once is enough
        lacking = {name: n_samples - n for name, n in counts.items() if n_samples - n > n_waiting}
        for n in sorted(set(lacking.values())):
            names = ", ".join(name for name in lacking if lacking[name] == n)
            yield f"{n} of {n_samples} samples have no scores of {metric.name} {where} ({names})"


def _only(what: str, before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    for names, where in ((before, "there"), (after, "here")):
        if names:
            yield f"{what} {where} only: {', '.join(names)}"
