"""Score a run's maps and graphs: each metric is mapped over the shards like an explainer."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from explainers import Target
from pipeline import aggregate, comparisons
from pipeline.aggregate import Judged
from pipeline.data import open_source
from pipeline.entries import check_chosen, graph_scans
from pipeline.errors import ConfigError
from pipeline.events import StageFinished
from pipeline.gates import absolute, clusters
from pipeline.gates.verdict import BROKEN, tally
from pipeline.metrics import build
from pipeline.networks import network_of
from pipeline.planning.fit import check_metric
from pipeline.scorable import GRAPH, explained, in_words, misfit, scored, unscored
from pipeline.scorer import EvaluateTask
from pipeline.session import open_session
from pipeline.snapshot import Snapshot
from pipeline.spray import stage as spectra
from pipeline.spray.findings import findings, left_out
from pipeline.store import EVALUATE, Run, open_run
from pipeline.urls import located

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from explainers import Network
    from pipeline.aggregate import Aggregate
    from pipeline.comparisons import Comparison
    from pipeline.events import Callback
    from pipeline.gates.verdict import Verdict
    from pipeline.metrics import Metric
    from pipeline.session import Session
    from pipeline.shards import Shard
    from pipeline.spray.findings import Finding
    from pipeline.spray.result import Analysis

INCOMPLETE = 5
"""Exit code where not every sample could be explained and scored."""
SERVED = frozenset({"network", "masks", "explainer", GRAPH})
"""What a run can be scored with."""


@dataclass(frozen=True)
class Evaluation:
    """What became of an evaluation."""

    path: PurePath
    """Folder of the run."""
    metrics: tuple[str, ...]
    """Entries that were scored, now or before."""
    n_samples: int
    """Samples in the shards that have maps."""
    n_shards: int
    """Shards that have maps."""
    n_scored: int
    """Pairs of metric and shard that were scored now; others were there."""
    quarantined: tuple[tuple[str, int], ...]
    """Pass and shard of each shard that was given up."""
    notes: tuple[str, ...]
    """Which samples have no maps, which maps a metric does not score, and why; which
    classes are in no analysis."""
    aggregates: tuple[Aggregate, ...]
    """Means, intervals and medians, as in aggregates.parquet; curves are only there."""
    comparisons: tuple[Comparison, ...]
    """Explainers beside each other and the controls, as in comparisons.parquet."""
    exit_code: int
    """0 done, 4 with a broken gate, 5 where samples failed or shards have no maps or were given up,
    130 or 143 interrupted."""
    seconds: float
    gates: tuple[Verdict, ...] = ()
    """What became of the run file's gates, as in gates.json; none if interrupted."""
    clusters: tuple[Finding, ...] = ()
    """Clusters of the maps of each class, where their spectrum was analysed."""


def evaluate(
    run: str | PurePath | Run,
    metrics: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    *,
    spray: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    engine: str | None = None,
    session: Session | None = None,
    callbacks: Sequence[Callback] = (),
    take_over: bool = False,
) -> Evaluation:
    """Score maps and graphs of a run, write what follows; what is scored already is kept.

    Parameters
    ----------
    run
        A run's folder, or the opened run.
    metrics
        Entries and their parameters, as in a run file; the run file's own if neither these nor
        `spray` are given. A name without parameters means the run file's entry, where there is one.
    spray
        Explainers whose maps' spectrum is analysed, and how; likewise.
    engine
        Name of the engine; that of the run file if not given.
    session
        The start of the run that this belongs to; a new one if not given.
    callbacks
        Told every event, if there is no session.
    take_over
        Whether to take the folder from an owner that this host cannot see.

    Raises
    ------
    ConfigError
        If a metric or a parameter is unknown, or cannot be served here.
    PlanError
        If a parameter does not fit the samples, the network or a target.
    RunConflictError
        If somebody else works on the run.
    """
    started = time.monotonic()
    opened = open_run(run) if isinstance(run, (str, PurePath)) else run
    chosen = _chosen(opened, metrics if spray is None else metrics or {})
    analyses = spectra.chosen(opened, spray if metrics is None else spray or {})
    done = explained(opened)
    with _session(opened, engine, session, callbacks, take_over) as current:
        n_before = len(current.quarantined)
        n_scored = _map_all(opened, chosen, done, current, is_planned=session is not None)
        found = spectra.analyse_run(opened, analyses, done, current)
        scored = Snapshot(opened)
        rows = tuple(aggregate.write(scored))
        gates = _gates(scored, rows, (*chosen, *map(clusters.of, analyses)), current)
        missing = _missing(scored, done)
        quarantined = tuple(current.quarantined[n_before:])
        return Evaluation(
            path=located(opened.path),
            metrics=tuple(chosen),
            n_samples=sum(len(shard) for shard in done),
            n_shards=len(done),
            n_scored=n_scored,
            quarantined=quarantined,
            notes=(*missing, *_unscored(opened, chosen), *_left_out(found)),
            aggregates=rows,
            comparisons=tuple(comparisons.write(scored)),
            exit_code=current.interrupts.exit_code
            or _exit_code(gates, is_whole=not missing and not quarantined),
            seconds=time.monotonic() - started,
            gates=gates,
            clusters=tuple(row for each in found for row in findings(each)),
        )


def _map_all(
    run: Run,
    chosen: Mapping[str, dict[str, Any]],
    done: Sequence[Shard],
    session: Session,
    *,
    is_planned: bool,
) -> int:
    """Score all metrics and return how many pairs of metric and shard were done now."""
    # a run's own metrics were checked when it was planned; workers here share the network
    _network = None if is_planned else _fitting(run, chosen, done)
    return sum(_map(run, name, settings, done, session) for name, settings in chosen.items())


def _exit_code(gates: Iterable[Verdict], *, is_whole: bool) -> int:
    if any(gate.is_broken for gate in gates):
        return BROKEN
    return 0 if is_whole else INCOMPLETE


def _gates(
    run: Run, rows: Sequence[Aggregate], asked: Iterable[str], session: Session
) -> tuple[Verdict, ...]:
    """Judge the gates of a run, unless it is to stop: what is half done says nothing of them."""
    if session.is_stopping:
        return ()
    verdicts = absolute.judge(run, aggregate.judged(run), rows, tuple(asked))
    if verdicts:
        session.emit(StageFinished("gates", tally(verdicts)))
    return verdicts


def _chosen(
    run: Run, metrics: Mapping[str, Mapping[str, Any]] | Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Return the settings of each metric, with its method; everything is checked."""
    configured = run.config.metrics
    asked = configured if metrics is None else metrics
    given = asked if isinstance(asked, Mapping) else {name: {} for name in asked}
    chosen = {}
    for name, settings in given.items():
        wanted = dict(settings or configured.get(name, {}))
        try:
            metric = build(name, wanted)
        except LookupError as error:
            raise ConfigError(
                str(error.args[0]), fix="xpipe metrics lists them", page="unknown-name"
            ) from error
        check_chosen(wanted.get("explainers"), run.config, f"metric {name!r}, explainers")
        _check_served(run, name, metric)
        chosen[name] = {"method": metric.name, **wanted}
    return chosen


def _missing(run: Run, done: Sequence[Shard]) -> tuple[str, ...]:
    """Return that samples have no maps, and why; nothing if all have."""
    n_samples = run.plan.n_samples
    n_waiting = n_samples - sum(len(shard) for shard in done)
    n_failed = len(run.failures())
    waiting = f"{n_waiting} of {n_samples} samples have no maps yet and count as undefined"
    failed = f"{n_failed} of {n_samples} samples failed; xpipe status {run.path} names them"
    return (waiting,) * bool(n_waiting) + (failed,) * bool(n_failed)


def _unscored(run: Run, chosen: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    said = []
    for name, settings in chosen.items():
        missing = unscored(build(name, settings), run.plan.maps, run.plan.form)
        only = settings.get("explainers")
        asked = {key: why for key, why in missing.items() if only is None or key in only}
        said.append(in_words(name, asked))
    return tuple(text for text in said if text)


def _left_out(found: Iterable[Analysis]) -> list[str]:
    return [f"{each.explainer}: {text}" for each in found for text in left_out(each)]


def _check_served(run: Run, name: str, metric: Metric) -> None:
    missing = sorted(metric.requires - SERVED)
    if missing:
        raise ConfigError(
            f"metric {name!r} needs {', '.join(missing)}, which stored maps do not have",
            fix="use pipeline.metrics.score in Python",
            page="explainer-does-not-fit",
        )
    reason = misfit(metric, [Target.parse(spec) for spec in run.plan.targets])
    if reason:
        raise ConfigError(
            f"metric {name!r}: {reason}",
            fix="let it compare the explained values themselves",
            page="explainer-does-not-fit",
        )
    if GRAPH in metric.requires and not graph_scans(run.config):
        raise ConfigError(
            f"metric {name!r} scores causal graphs, and no scan of the run finds any",
            fix="add an explainer `{method: causal_graph}` and start a new run",
            page="explainer-does-not-fit",
        )
    if "masks" in metric.requires and not run.manifest.n_masks:
        raise ConfigError(
            f"metric {name!r} needs masks, but no sample of the run has one",
            fix="name a folder of masks in the section data and start a new run",
            page="labels-or-masks-needed",
        )


def _fitting(
    run: Run, chosen: Mapping[str, dict[str, Any]], shards: Sequence[Shard]
) -> Network | None:
    """Refuse metrics that cannot score what they have not yet; return the network, if any needs it.

    Nothing is read where nothing is to be done.
    """
    metrics = {
        name: build(name, settings)
        for name, settings in chosen.items()
        if _has_work(run, _judge(run, name, settings), shards)
    }
    network = None
    if any("network" in metric.requires for metric in metrics.values()):
        source = open_source(run.config.data, run.config.base)
        network = network_of(run.config, run.plan, source, run.manifest)
    targets = [Target.parse(spec) for spec in run.plan.targets]
    for name, metric in metrics.items():
        where = functools.partial(_place, name)
        check_metric(metric, chosen[name], where, network, run.plan.form, targets)
    return network


def _place(name: str, *keys: str | int) -> str:
    """Return where a metric's setting is, for messages: it need not be in a file."""
    return f"metric {name!r}" + (f", {'.'.join(map(str, keys))}" if keys else "")


def _has_work(run: Run, judged: Judged, shards: Sequence[Shard]) -> bool:
    entries = run.ledger.entries(f"{EVALUATE}{judged.name}")
    done = {index for index, entry in entries.items() if entry.digest == judged.digest}
    return bool(judged.explainers) and any(shard.index not in done for shard in shards)


def _map(
    run: Run, name: str, settings: dict[str, Any], shards: Iterable[Shard], session: Session
) -> int:
    """Score one metric and return how many shards were done now."""
    judged = _judge(run, name, settings)
    pass_name = f"{EVALUATE}{name}"
    present = run.ledger.entries(pass_name)
    stale = [shard for shard, entry in present.items() if entry.digest != judged.digest]
    for shard in stale:
        run.ledger.withdraw(pass_name, shard)
    judged.write(run.folder)
    if not judged.explainers:
        return 0
    task = EvaluateTask(str(run.path), name, settings, judged.explainers, judged.digest)
    outcomes = session.map(task, pass_name, tuple(shards), set(present) - set(stale))
    return sum(outcome.status == "committed" for outcome in outcomes)


def _judge(run: Run, name: str, settings: Mapping[str, Any]) -> Judged:
    """Return how a metric is evaluated, with the digest that its records carry."""
    metric = build(name, settings)
    # a metric is a frozen dataclass of its parameters; the ABC cannot say so
    parameters: dict[str, Any] = asdict(metric)  # type: ignore[call-overload]
    explainers = scored(metric, run, settings.get("explainers"))
    parts = [run.plan.digest, metric.name, parameters, explainers]
    text = json.dumps(parts, sort_keys=True, default=repr)
    return Judged(
        name=name,
        method=metric.name,
        parameters=parameters,
        direction=metric.direction,
        space=metric.space,
        headline=metric.headline,
        explainers=explainers,
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _session(
    run: Run,
    engine: str | None,
    session: Session | None,
    callbacks: Sequence[Callback],
    take_over: bool,
) -> AbstractContextManager[Session]:
    if session is not None:
        return contextlib.nullcontext(session)
    config = run.config
    if engine is not None:
        chosen = config.engine.model_copy(update={"kind": engine})
        config = config.model_copy(update={"engine": chosen})
    return open_session(run.path, config, callbacks=callbacks, take_over=take_over)
