"""How much worse scores may be than in an earlier run on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compare.comparing import opened
from pipeline.compare.map_drift import rows_of
from pipeline.compare.pairing import pair
from pipeline.compare.score_drift import Scores, interval
from pipeline.errors import ConfigError
from pipeline.gates import grammar
from pipeline.gates.absolute import explainers
from pipeline.gates.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import PurePath

    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.compare.pairing import Pairing
    from pipeline.config import RelativeGate, RunConfig
    from pipeline.gates.verdict import Status
    from pipeline.store import Run


def judge(
    gates: Sequence[RelativeGate], previous: str | PurePath | Run, current: str | PurePath | Run
) -> tuple[Verdict, ...]:
    r"""Judge gates by how the scores of two runs differ, sample by sample.

    With d the paired changes, turned so that a positive one is worse, a gate fails only if both
    hold: :math:`\bar d` is more than `max_drop`, and the interval
    :math:`\bar d \pm t_{1-\alpha/2,\,n-1}\, s_d/\sqrt n` is above zero. If one of them holds it is
    a warning. Of `scope: class`, each of k classes is judged at :math:`\alpha / k` (Bonferroni), so
    that alpha bounds the chance that any class fails though none has changed. A gate fails as well
    if scores have gone missing: `max_undefined`, `min_coverage`, or an explainer that is scored no
    more.

    Raises
    ------
    IncomparableError
        If the runs cannot be compared.
    ConfigError
        If a gate is about something that the runs do not have.
    """
    before, after = opened(previous), opened(current)
    pairing = pair(before, after)
    rows = rows_of(before, after, pairing.before)
    scores = Scores(before, after, pairing, rows.classes)
    judged: list[Verdict] = []
    for gate in gates:
        metric = pairing.known(gate.metric)
        if metric is None:
            raise _never_scored(gate.metric, pairing, before, after)
        old = next(old for old, new in pairing.metrics if new is metric)
        judged += of_scores(gate, old, metric, scores, before.config, after.plan.input_shape)
    return tuple(judged)


def _never_scored(metric: str, pairing: Pairing, before: Run, after: Run) -> ConfigError:
    """Return what to say of a metric that a run was never scored by: which run, and what helps."""
    lacking = [
        run
        for run, others in ((before, pairing.only_before), (after, pairing.only_after))
        if metric not in others
    ]
    said = " and ".join(str(run.path) for run in lacking)
    return ConfigError(
        f"gate of {metric!r}: {said} {'was' if len(lacking) == 1 else 'were'} never scored by it"
        f"{_suggested(metric, [new.name for _, new in pairing.metrics])}",
        fix="; ".join(f"xpipe evaluate {run.path} --metric {metric}" for run in lacking)
        + " with the same parameters, or judge another metric",
        page="gate",
    )


def text(gate: RelativeGate) -> str:
    """Return a relative gate as it can be written."""
    given = gate.model_dump(exclude_defaults=True)
    return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"


def of_scores(
    gate: RelativeGate,
    old: Judged,
    new: Judged,
    scores: Scores,
    config: RunConfig,
    shape: tuple[int, ...],
) -> list[Verdict]:
    """Judge one gate; parameters and errors as of `judge`.

    Parameters
    ----------
    gate
        What is asked.
    old, new
        How the metric was evaluated before and now.
    scores
        The scores of both.
    config
        Of the previous run: which explainers are controls.
    shape
        Of a sample.
    """
    wanted = _explainers(gate, old, config)
    column = gate.column or new.headline
    side = gate.direction or new.direction_of(column, shape)
    found: list[Verdict] = []
    for explainer in wanted:
        if explainer not in new.explainers:
            found.append(_lost(gate, explainer, column))
            continue
        columns = scores.columns(new, explainer)
        if column not in columns:
            raise ConfigError(
                f"gate of {gate.metric!r}: there is no score {column!r} in both runs"
                f"{_suggested(column, list(columns))}",
                fix="name a column that has one number per sample; `xpipe metrics` names headlines",
                page="gate",
            )
        if not side:
            raise ConfigError(
                f"gate of {gate.metric!r}: nothing says which end of {column!r} is better",
                fix="add `direction: higher` or `direction: lower` to the gate",
                page="gate",
            )
        about = _About(gate, explainer, column, 1.0 if side == "lower" else -1.0)
        found += about.verdicts(scores, new)
    return found


def _explainers(gate: RelativeGate, old: Judged, config: RunConfig) -> tuple[str, ...]:
    """Return whom a gate is about: those that were scored before, so that none is dropped."""
    wanted = explainers(config, old, gate.explainer)
    for name in wanted:
        if name not in old.explainers:
            raise ConfigError(
                f"gate of {gate.metric!r}: the previous run has no scores of {name!r}"
                f"{_suggested(name, list(old.explainers))}",
                fix="name an explainer that both runs have scored",
                page="gate",
            )
    return wanted


@dataclass(frozen=True)
class _About:
    """One score of one explainer under a gate."""

    gate: RelativeGate
    explainer: str
    column: str
    sign: float
    """By which a change is turned, so that positive is worse."""

    def verdicts(self, scores: Scores, metric: Judged) -> list[Verdict]:
        before, after = scores.columns(metric, self.explainer)[self.column]
        scored = scores.scored(metric, self.explainer)
        groups = scores.groups(by_class=self.gate.scope == "class")
        if self.gate.scope == "class" and len(groups) > 1:
            groups.pop("all")
        alpha = self.gate.alpha / len(groups)
        return [
            self._verdict(
                group,
                (before[rows], after[rows]),
                _gaps(before, after, scored, rows),
                float(scored[0][rows].mean()) if rows.any() else 1.0,
                alpha,
            )
            for group, rows in groups.items()
        ]

    def _verdict(
        self,
        group: str,
        pair: tuple[NDArray[np.float64], NDArray[np.float64]],
        gaps: tuple[float, float],
        known: float,
        alpha: float,
    ) -> Verdict:
        both = np.isfinite(pair[0]) & np.isfinite(pair[1])
        before = pair[0][both]
        change = pair[1][both] - before
        share, is_share = grammar.drop(self.gate.max_drop)
        mean = float(before.mean()) if len(before) else float("nan")
        limit = share * abs(mean) if is_share else share
        low, high = interval(change, alpha)
        value = float(change.mean()) if len(change) else float("nan")
        # NaN of fewer than two samples is above nothing
        status, said = _status(self.sign * value, min(self.sign * low, self.sign * high), limit)
        missing = self._missing(gaps, has_lost=bool(np.isfinite(pair[0]).any()) > bool(len(change)))
        if missing:
            status, said = "failed", missing
        elif not len(change):
            status, said = "skipped", "no sample has a defined score in either run"
        elif known < self.gate.min_coverage:
            status, said = self._of_part(status, said, known)
        return Verdict(
            gate=text(self.gate),
            kind="relative",
            status=status,
            explainer=self.explainer,
            metric=self.gate.metric,
            column=self.column,
            group=group,
            n=len(change),
            value=value,
            low=low,
            high=high,
            limit=limit,
            message=f"{_changed(mean, value, low, high, alpha, len(change))}; {said}",
        )

    def _of_part(self, status: Status, said: str, known: float) -> tuple[Status, str]:
        """Return a verdict where the earlier run was scored in part only: at best a warning."""
        said += f"; only {known:.1%} of the samples were scored before"
        return "failed" if status == "failed" else "warned", said

    def _missing(self, gaps: tuple[float, float], *, has_lost: bool) -> str:
        coverage, grown = gaps
        if coverage < self.gate.min_coverage:
            return (
                f"only {coverage:.1%} of the samples scored before are scored now, "
                f"expected {self.gate.min_coverage:.1%}"
            )
        if grown > self.gate.max_undefined:
            return (
                f"the share of undefined scores has grown by {grown:.1%}, "
                f"which may be {self.gate.max_undefined:.1%}"
            )
        return "no sample has a defined score in both runs" if has_lost else ""


def _status(worse: float, least: float, limit: float) -> tuple[Status, str]:
    """Return the verdict on a change: how much worse, and how much at least by its interval."""
    is_more, is_sure = worse > limit, least > 0
    if is_more and is_sure:
        return "failed", f"worse by more than {limit:.4g}, and the interval excludes zero"
    if is_more:
        return "warned", f"worse by more than {limit:.4g}, but the interval holds zero"
    if is_sure:
        return "warned", f"worse, though by no more than {limit:.4g}"
    return "passed", "not worse" if worse <= 0 else f"worse by no more than {limit:.4g}"


def _changed(mean: float, value: float, low: float, high: float, alpha: float, n: int) -> str:
    return (
        f"{mean:.4g} became {mean + value:.4g}, a change of {value:+.4g} "
        f"({100 * (1 - alpha):.4g} % interval {low:+.4g} to {high:+.4g}, {n} samples)"
    )


def _gaps(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    scored: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    rows: NDArray[np.bool_],
) -> tuple[float, float]:
    """Return which share of the samples scored before is scored now, and the growth of NaN.

    Shares are over the samples that both have scored: of others nothing is known.
    """
    was, is_now = scored[0] & rows, scored[1] & rows
    both = was & is_now
    coverage = both.sum() / was.sum() if was.any() else 1.0
    if not both.any():
        return float(coverage), 0.0
    grown = np.isnan(after[both]).mean() - np.isnan(before[both]).mean()
    return float(coverage), float(grown)


def _lost(gate: RelativeGate, explainer: str, column: str) -> Verdict:
    nan = float("nan")
    return Verdict(
        gate=text(gate),
        kind="relative",
        status="failed",
        explainer=explainer,
        metric=gate.metric,
        column=column,
        group="all",
        n=0,
        value=nan,
        low=nan,
        high=nan,
        limit=nan,
        message=f"{explainer} was scored before and is not any more",
    )


def _suggested(name: str, known: list[str]) -> str:
    from explainers.registry import suggest

    return f"; {suggest(name, known)}" if known else ""
