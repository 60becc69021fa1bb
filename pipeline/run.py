"""Run a configuration from plan to report, or go on with a run that was cut off."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from explainers.registry import suggest
from pipeline import environment, paths
from pipeline.callbacks.event_log import event_log
from pipeline.config import dump
from pipeline.conflict import refuse_other_run
from pipeline.entries import servable
from pipeline.errors import ConfigError, RunConflictError, StoreError
from pipeline.events import RunFinished, RunStarted, StageFinished
from pipeline.gates.names import kept as kept_gates
from pipeline.gates.verdict import BROKEN
from pipeline.manifest import Manifest
from pipeline.object_store import refuse_unsafe
from pipeline.ownership.lock import Owner, owner, refuse_if_owned
from pipeline.passes import Passes
from pipeline.plan import EXPLAIN, Plan
from pipeline.planner import make_plan
from pipeline.session import open_session
from pipeline.store import open_run
from pipeline.urls import located

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import PurePath

    from pipeline.config import RunConfig
    from pipeline.events import Callback
    from pipeline.gates.verdict import Verdict
    from pipeline.ledger import Entry
    from pipeline.planner import Planned
    from pipeline.session import Session
    from pipeline.spray.findings import Finding
    from pipeline.store import Run

__all__ = ["Owner", "RunSummary", "narrowed", "owner", "resume", "run"]

logger = logging.getLogger(__name__)

INCOMPLETE = 5
"""Exit code of a run with samples that failed or shards that were given up."""


@dataclass(frozen=True)
class RunSummary:
    """What became of a run."""

    path: PurePath
    """Its folder; a `pipeline.urls.Url` if it is in an object store."""
    exit_code: int
    """0 done, 4 with a broken gate, 5 with quarantined shards or failed samples, 130 or 143
    interrupted."""
    n_samples: int
    """Samples in the manifest."""
    n_failed: int
    """Samples that could not be used."""
    quarantined: tuple[tuple[str, int], ...]
    """Pass and shard of each shard that was given up."""
    seconds: float
    """Time this start took."""
    report: PurePath | None = None
    """The page, where one was built."""
    n_done: int = 0
    """Samples in committed shards, those that failed included."""
    not_finite: dict[str, int] = field(default_factory=dict)
    """Explainer to its number of maps that are NaN or infinite somewhere, where there are any."""
    gates: tuple[Verdict, ...] = ()
    """What became of the run file's gates; none if interrupted."""
    clusters: tuple[Finding, ...] = ()
    """Clusters of the maps of each class, where their spectrum was analysed."""
    notes: tuple[str, ...] = ()
    """What was not scored or analysed, and why."""


def run(
    config: RunConfig,
    *,
    only: Sequence[str] | None = None,
    limit: int | None = None,
    callbacks: Sequence[Callback] = (),
    take_over: bool = False,
) -> RunSummary:
    """Plan and run a configuration; a folder with the same digest is resumed.

    Parameters
    ----------
    config
        What to run.
    only
        Entries of ``explainers`` to keep; all if not given.
    limit
        Only the first so many samples.
    callbacks
        Told every event.
    take_over
        Whether to take the folder from an owner on another host, which must be dead.

    Raises
    ------
    ConfigError, PlanError
        If the run cannot be made; nothing is written then.
    RunConflictError
        If somebody else works on the folder, or it holds another run.
    StoreError
        If the disk is full or read-only, or the object store does not take what is written.
    """
    started = time.monotonic()
    config = narrowed(config, only, limit)
    path = located(config.output.path)
    refuse_if_owned(path, take_over=take_over)
    refuse_unsafe(paths.Folder(path))
    planned = make_plan(config)
    refuse_other_run(path, config, planned.plan)
    with open_session(path, config, callbacks=callbacks, take_over=take_over) as session:
        # again, now that nobody else can write it
        refuse_other_run(path, config, planned.plan)
        plan = _settle_folder(path, config, planned)
        log = event_log(paths.Folder(path), session.epoch)
        session.callbacks = (log, *session.callbacks)
        return _Start(session, config, plan, planned, started).run()


def resume(
    path: str | PurePath, *, callbacks: Sequence[Callback] = (), take_over: bool = False
) -> RunSummary:
    """Go on with the run in a folder.

    Raises
    ------
    StoreError
        If there is none.
    PlanError, RunConflictError, StoreError
        As `run`.
    """
    config = open_run(str(path)).config
    # the folder may have been moved
    output = config.output.model_copy(update={"path": str(path)})
    return run(
        config.model_copy(update={"output": output}), callbacks=callbacks, take_over=take_over
    )


@dataclass
class _Start:
    """One start of a run, with its folder settled."""

    session: Session
    config: RunConfig
    plan: Plan
    planned: Planned
    started: float
    report: PurePath | None = None
    gates: tuple[Verdict, ...] = ()
    clusters: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def run(self) -> RunSummary:
        self.session.emit(
            RunStarted(
                path=str(self.session.path),
                digest=self.plan.digest,
                epoch=self.session.epoch,
                n_samples=self.plan.n_samples,
                n_shards=len(self.plan.shards),
                passes=tuple(each.name for each in self.plan.passes),
            )
        )
        message, exit_code = "", 1
        try:
            self._work()
            exit_code = self._exit_code()
        except KeyboardInterrupt:
            exit_code = self.session.interrupts.exit_code or 130
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            exit_code = getattr(error, "exit_code", 1)
            raise
        finally:
            self._tell_end(exit_code, message)
        return self._summary(exit_code)

    def _work(self) -> None:
        passes = Passes(self.session, self.config, self.plan, self.planned.explainers)
        passes.run()
        judges = self.config.metrics or self.config.spray
        if judges and not self.session.is_stopping:
            from pipeline.evaluate import evaluate

            asked, spray = self.config.metrics, self.config.spray
            evaluated = evaluate(self.session.path, asked, spray=spray, session=self.session)
            self.gates = evaluated.gates
            self.clusters, self.notes = evaluated.clusters, evaluated.notes
        if not self.session.is_stopping:
            from pipeline import atlas, report

            run = open_run(str(self.session.path))
            if atlas.is_wanted(run) and not atlas.is_current(run):
                self._browse(run)
            self.report = report.build(self.session.path)
            self.session.emit(StageFinished("report", str(self.report)))

    def _browse(self, run: Run) -> None:
        """Build the atlas; the run is done and its results are sound whether it can be or not."""
        from pipeline import atlas

        try:
            index = atlas.build(run, kinds=self._kinds())
        except Exception:  # of pictures, data and disk; the report is still to come
            logger.warning(
                "the atlas could not be built; `xpipe atlas %s` tries again",
                self.session.path,
                exc_info=True,
            )
        else:
            self.session.emit(StageFinished("atlas", index))

    def _kinds(self) -> dict[str, str]:
        """Return the operators of the model's layers, by name."""
        network = self.planned.network
        return {layer: type(network.operator(layer)).__name__ for layer in network.layers}

    def _exit_code(self) -> int:
        if self.session.interrupts.exit_code:
            return self.session.interrupts.exit_code
        if any(gate.is_broken for gate in self.gates):
            return BROKEN
        has_failed = any(entry.n_failed for entry in self._entries())
        return INCOMPLETE if self.session.quarantined or has_failed else 0

    def _entries(self) -> list[Entry]:
        return list(open_run(str(self.session.path)).entries(EXPLAIN).values())

    def _tell_end(self, exit_code: int, message: str) -> None:
        summary = self._summary(exit_code)
        self.session.emit(
            RunFinished(
                exit_code=exit_code,
                n_samples=summary.n_samples,
                n_failed=summary.n_failed,
                quarantined=summary.quarantined,
                seconds=summary.seconds,
                message=message,
            )
        )

    def _summary(self, exit_code: int) -> RunSummary:
        entries = self._entries()
        return RunSummary(
            path=self.session.path,
            exit_code=exit_code,
            n_samples=self.plan.n_samples,
            n_failed=sum(entry.n_failed for entry in entries),
            quarantined=tuple(self.session.quarantined),
            seconds=time.monotonic() - self.started,
            report=self.report,
            n_done=sum(entry.n_samples for entry in entries),
            not_finite=open_run(str(self.session.path)).not_finite(),
            gates=self.gates,
            clusters=self.clusters,
            notes=self.notes,
        )


def narrowed(config: RunConfig, only: Sequence[str] | None, limit: int | None) -> RunConfig:
    """Return the configuration with some of its explainers and samples only, as `run` takes them.

    Raises
    ------
    ConfigError
        If there is no such explainer.
    """
    if limit is not None:
        data = config.data.model_copy(update={"limit": limit})
        config = config.model_copy(update={"data": data})
    if not only:
        return config
    for name in only:
        if name not in config.explainers:
            raise ConfigError(
                f"{config.where('explainers')}: there is no {name!r} to restrict the run to; "
                f"{suggest(name, list(config.explainers))}",
                fix="name entries of the section explainers",
                page="unknown-name",
            )
    kept = {name: values for name, values in config.explainers.items() if name in only}
    spray = {name: values for name, values in config.spray.items() if name in only}
    narrow = config.model_copy(update={"explainers": kept, "spray": spray})
    # what is stored is read again, and must not speak of what is not there
    narrow = narrow.model_copy(update={"metrics": servable(narrow)})
    return narrow.model_copy(update={"gates": kept_gates(narrow)})


def _settle_folder(path: PurePath, config: RunConfig, planned: Planned) -> Plan:
    """Write what describes the run, or return the plan that is there, whose sizes bind."""
    folder = paths.Folder(path)
    # also when it is there: name, metrics and report may be others now
    folder.write(paths.RUN_FILE, dump(config).encode())
    if folder.exists(paths.PLAN):
        _compare_versions(path)
        plan = Plan.read(folder.at_url(paths.PLAN))
        _mend_manifest(folder.at_url(paths.MANIFEST), plan, planned)
        return plan
    described = environment.describe(config, planned.plan)
    folder.write(paths.ENVIRONMENT, (json.dumps(described, indent=2) + "\n").encode())
    planned.manifest.write(folder.at_url(paths.MANIFEST))
    # last: a folder with a plan holds a run
    folder.write(paths.PLAN, planned.plan.to_json().encode())
    return planned.plan


def _mend_manifest(url: str, plan: Plan, planned: Planned) -> None:
    """Write the manifest anew where it is damaged: the source gave the same samples again.

    Raises
    ------
    RunConflictError
        If samples have other sizes than when the run was planned: some are explained as they were.
    """
    try:
        present = Manifest.read(url)
    except StoreError:
        present = None
    if present is not None and present.digest() == plan.manifest_digest:
        changed = present.changed(planned.manifest)
        if changed:
            raise RunConflictError(
                f"{len(changed)} samples have changed since the run was planned, the first of them "
                f"{changed[0]!r}",
                fix="restore them, or give another output.path to explain them as they are now",
                page="changed-sample",
            )
    elif planned.plan.manifest_digest == plan.manifest_digest:
        logger.warning("%s is damaged and is written anew", url)
        planned.manifest.write(url)


def _compare_versions(path: PurePath) -> None:
    before = open_run(str(path)).environment.get("packages", {})
    for name, version in environment.versions().items():
        if before.get(name, version) != version:
            logger.warning(
                "the run was begun with %s %s and goes on with %s; shards may differ in rounding",
                name,
                before[name],
                version,
            )
