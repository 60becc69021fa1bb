"""Explainers compared by their scores, pair by pair on the same samples, and to the controls."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline import aggregate, paths
from pipeline.aggregate import ALL, CORRECT, MISCLASSIFIED
from pipeline.plan import EXPLAIN
from pipeline.statistics import Paired, holm, letters, paired
from pipeline.store import EVALUATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.metrics import Direction
    from pipeline.store import Run

Kind = Literal["best", "control", "pair"]
Verdict = Literal["better", "worse", "undecided"]

CONTROLS = ("random", "sobel")
"""Methods that know nothing of the model: what cannot beat them says nothing of it."""
ALPHA = 0.05
"""Chance of a false finding in one family of tests: one metric, group and reference."""
GROUPS = (ALL, CORRECT, MISCLASSIFIED)
"""Groups of samples in which explainers are compared."""
_STATE = b"xpipe.state"
"""Key of the file's metadata: which scores it was made from."""


@dataclass(frozen=True)
class Comparison:
    """One explainer beside another under one metric, on the samples that both have scores of."""

    metric: str
    column: str
    """The headline of the metric."""
    direction: Direction
    """Which end of it is better."""
    explainer: str
    reference: str
    """What it is compared to."""
    kind: Kind
    """Why: the reference has the best mean of the group, is a control, or is any other explainer
    (group ``all`` only, each pair once, the one with the better mean first)."""
    group: str
    """``all``, ``correct`` or ``misclassified``."""
    n: int
    """Samples with both scores."""
    difference: float
    """Mean of explainer less reference."""
    low: float
    """Lower end of its 95 % confidence interval (Student's t)."""
    high: float
    """Upper end."""
    p: float
    """Of Wilcoxon's signed rank test, two-sided."""
    p_holm: float
    """The same after Holm's correction over the comparisons of one metric, group and kind; of
    controls, to one control."""
    delta: float
    """Cliff's delta of the scores over all pairs of samples, from -1 to 1."""
    dominance: float
    """Share of samples at which the explainer's score is above, less the share below."""
    verdict: Verdict
    """``better`` or ``worse`` if `p_holm` is below 0.05 and neither the mean nor the majority of
    samples says the opposite."""


@dataclass(frozen=True)
class Standing:
    """Where an explainer stands under one metric, over all samples."""

    explainer: str
    mean: float
    """Of the headline."""
    rank: int
    """1 for the best mean; equal means share the better rank."""
    letters: str
    """Explainers that share a letter cannot be told apart."""
    against: Mapping[str, Comparison]
    """Control to the comparison with it; empty for a control itself."""
    to_best: Comparison | None
    """Comparison with the best; None for the best itself."""


@dataclass(frozen=True)
class Compared:
    """All comparisons of one metric."""

    metric: Judged
    means: Mapping[str, float]
    """Explainer to the mean of its headline."""
    controls: tuple[str, ...]
    """Explainers that are controls."""
    rows: tuple[Comparison, ...]

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """Return where every explainer stands, the best first."""
        order = ranked(self.means, self.metric.direction)
        here = [row for row in self.rows if row.group == ALL]
        told = {
            frozenset((row.explainer, row.reference))
            for row in here
            if row.kind == "pair" and row.verdict != "undecided"
        }
        marks = letters(order, told)
        best = {row.explainer: row for row in here if row.kind == "best"}
        return tuple(
            Standing(
                explainer=name,
                mean=self.means[name],
                rank=1 + [self.means[each] for each in order].index(self.means[name]),
                letters=marks[name],
                against={
                    row.reference: row
                    for row in here
                    if row.kind == "control" and row.explainer == name
                },
                to_best=best.get(name),
            )
            for name in order
        )

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """Return the controls that no explainer beats: the metric cannot tell them apart."""
        found = unbeaten(self.rows).get(self.metric.name, ())
        return tuple(name for name in self.controls if name in found)


def unbeaten(rows: Iterable[Comparison]) -> dict[str, tuple[str, ...]]:
    """Return metric to the controls that no explainer beats under it, over all samples."""
    verdicts: dict[str, dict[str, set[Verdict]]] = {}
    for row in rows:
        if row.kind == "control" and row.group == ALL:
            of_metric = verdicts.setdefault(row.metric, {})
            of_metric.setdefault(row.reference, set()).add(row.verdict)
    found = {
        metric: tuple(name for name, said in by.items() if "better" not in said)
        for metric, by in verdicts.items()
    }
    return {metric: names for metric, names in found.items() if names}


def controls(run: Run) -> tuple[str, ...]:
    """Return the entries of a run whose method is a control."""
    entries = run.config.explainers
    return tuple(name for name, given in entries.items() if given.get("method", name) in CONTROLS)


def compare(
    metric: Judged,
    scores: Mapping[str, NDArray[np.float64]],
    groups: Mapping[str, NDArray[np.int64]],
    control: Iterable[str] = (),
) -> Compared:
    """Compare explainers by their scores.

    Parameters
    ----------
    metric
        What was scored.
    scores
        Explainer to the headline per sample, ``(samples,)`` each; NaN where there is none.
    groups
        Group to its rows; those of `GROUPS` are compared.
    control
        Explainers that are controls.
    """
    means = _means(scores)
    known = tuple(name for name in control if name in means)
    rows: list[Comparison] = []
    for group, members in groups.items():
        if group in GROUPS and len(members):
            of_group = {name: scores[name][members] for name in means}
            rows += _of_group(metric, group, of_group, known)
    return Compared(metric, means, known, tuple(rows))


def of_run(run: Run) -> tuple[Compared, ...]:
    """Return the comparisons of every metric of a run, read where they are stored and current."""
    stored, states = _stored(run)
    named, known = aggregate.groups_of(run).named, controls(run)
    found = []
    for metric in aggregate.judged(run):
        scores = headline(run, metric)
        if states.get(metric.name) == _state(run, metric):
            means = _means(scores)
            rows = tuple(row for row in stored if row.metric == metric.name)
            present = tuple(name for name in known if name in means)
            found.append(Compared(metric, means, present, rows))
        else:
            found.append(compare(metric, scores, named, known))
    return tuple(found)


def write(run: Run) -> list[Comparison]:
    """Write comparisons.parquet and return what is in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = of_run(run)
    rows = [row for each in found for row in each.rows]
    columns = {
        field.name: pa.array([getattr(row, field.name) for row in rows], _arrow(str(field.type)))
        for field in fields(Comparison)
    }
    states = {each.metric.name: _state(run, each.metric) for each in found}
    table = pa.table(columns).replace_schema_metadata({_STATE: json.dumps(states)})
    buffer = BytesIO()
    pq.write_table(table, buffer)
    run.folder.write(paths.COMPARISONS, buffer.getvalue())
    return rows


def headline(run: Run, metric: Judged) -> dict[str, NDArray[np.float64]]:
    """Return explainer to the headline of a metric per sample, ``(samples,)``.

    Explainers that are not scored yet are left out, and so are all of a metric whose headline is
    a statistic of groups of samples.
    """
    found = {name: run.scores(metric.name, name) for name in metric.explainers}
    return {
        name: np.asarray(columns[metric.headline], np.float64)
        for name, columns in found.items()
        if metric.headline in columns
    }


def ranked(means: Mapping[str, float], direction: Direction) -> list[str]:
    """Return names from the best mean to the worst; those without a mean are left out."""
    sign = 1 if direction == "lower" else -1
    known = [name for name, mean in means.items() if not np.isnan(mean)]
    return sorted(known, key=lambda name: sign * means[name])


def _means(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    means = {
        name: float(aggregate.summarise(values[:, None]).mean[0]) for name, values in scores.items()
    }
    return {name: mean for name, mean in means.items() if not np.isnan(mean)}


def _of_group(
    metric: Judged, group: str, scores: Mapping[str, NDArray[np.float64]], control: Sequence[str]
) -> list[Comparison]:
    """Return the comparisons of one group, each family corrected by itself."""
    order = ranked(_means(scores), metric.direction)
    families: list[tuple[Kind, list[tuple[str, str]]]] = [
        ("best", [(name, order[0]) for name in order[1:]])
    ]
    for reference in control:
        others = [name for name in order if name not in control]
        families.append(("control", [(name, reference) for name in others if reference in order]))
    if group == ALL:
        families.append(("pair", list(itertools.combinations(order, 2))))
    known: dict[tuple[str, str], Paired] = {}
    rows = []
    for kind, pairs in families:
        tests = [_paired(known, scores, *pair) for pair in pairs]
        corrected = holm([test.p for test in tests]).tolist()
        rows += [
            _row(metric, group, kind, pair, test, p)
            for pair, test, p in zip(pairs, tests, corrected, strict=True)
        ]
    return rows


def _paired(
    known: dict[tuple[str, str], Paired],
    scores: Mapping[str, NDArray[np.float64]],
    name: str,
    reference: str,
) -> Paired:
    """Return the comparison of two; what was compared the other way round is turned."""
    if (reference, name) in known:
        return known[reference, name].turned()
    if (name, reference) not in known:
        known[name, reference] = paired(scores[name], scores[reference])
    return known[name, reference]


def _row(
    metric: Judged, group: str, kind: Kind, pair: tuple[str, str], test: Paired, p: float
) -> Comparison:
    return Comparison(
        metric=metric.name,
        column=metric.headline,
        direction=metric.direction,
        explainer=pair[0],
        reference=pair[1],
        kind=kind,
        group=group,
        p_holm=p,
        verdict=decided(p, test.difference, test.dominance, metric.direction),
        **asdict(test),
    )


def decided(p: float, difference: float, dominance: float, direction: Direction) -> Verdict:
    """Return whether a change is for the better: where it is sure, and mean and majority agree.

    Parameters
    ----------
    p
        Of the test, corrected for the others of its family.
    difference, dominance
        As in `Comparison`.
    direction
        Which end of the score is better.
    """
    sign = 1 if direction == "higher" else -1
    if p < ALPHA and sign * difference > 0 and sign * dominance >= 0:
        return "better"
    if p < ALPHA and sign * difference < 0 and sign * dominance <= 0:
        return "worse"
    return "undecided"


def _stored(run: Run) -> tuple[list[Comparison], dict[str, str]]:
    """Return what comparisons.parquet holds, and the scores that it was made from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(BytesIO(run.folder.read(paths.COMPARISONS)))
        states: dict[str, str] = json.loads((table.schema.metadata or {}).get(_STATE, b"{}"))
        return [Comparison(**row) for row in table.to_pylist()], states
    except (FileNotFoundError, pa.ArrowException, TypeError, ValueError):
        return [], {}  # made again from the scores


def _state(run: Run, metric: Judged) -> str:
    """Return a digest of everything that the comparisons of a metric are made from."""
    passes = (EXPLAIN, f"{EVALUATE}{metric.name}")
    objects = [sorted(run.entries(each).items()) for each in passes]
    known = [[(shard, sorted(entry.objects.items())) for shard, entry in each] for each in objects]
    parts = [metric.digest, metric.headline, controls(run), known]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _arrow(written: str) -> str:
    """Return the type of a column of the file by that of its field."""
    return {"int": "int64", "float": "float64"}.get(written, "string")
