"""How long a run will take as a whole: rehearsed with few samples, twice, and drawn out to all."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from pipeline.engine import engines
from pipeline.errors import XpipeError
from pipeline.events import PassFinished, ShardCommitted
from pipeline.planner import make_plan
from pipeline.quantities import duration
from pipeline.run import run
from pipeline.session import settings
from pipeline.threads import processors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.config import RunConfig
    from pipeline.events import Event
    from pipeline.plan import Plan

SECONDS = 2.0
"""That every worker may explain in the first rehearsal, which says how long a second may be."""
MOST_SECONDS = 20.0
"""That every worker may be busy in the second rehearsal."""
WAVES = 4
"""Shards of every worker in the second rehearsal; the first of them warms up."""
REST = "the rest"
"""Part of a run that is no pass: scores are summed up, gates judged, pages built."""


@dataclass
class Rehearsal:
    """When the shards of a run of few samples were committed, by pass; a callback."""

    n_samples: int
    """In the run."""
    workers: int
    """Who shared them."""
    begun: float = 0.0
    """When it was planned, by the clock that the others are by."""
    passes: dict[str, float] = field(default_factory=dict)
    """Seconds of each pass."""
    commits: dict[str, list[tuple[float, ShardCommitted]]] = field(default_factory=dict)
    """Commits of each, with their times."""
    planning: float = 0.0
    """Seconds until it was planned."""
    rest: float = 0.0
    """Seconds that were neither planning nor a pass."""

    def __call__(self, event: Event) -> None:
        """Note when an event happened."""
        now = time.monotonic()
        self.begun = self.begun or now
        if isinstance(event, PassFinished):
            self.passes[event.pass_name] = event.seconds
        elif isinstance(event, ShardCommitted):
            self.commits.setdefault(event.pass_name, []).append((now, event))

    @property
    def work(self) -> float:
        """Seconds that each worker was busy."""
        shards = [event.seconds for told in self.commits.values() for _, event in told]
        return sum(shards) / self.workers

    def each(self, name: str) -> float:
        """Return the seconds that a worker takes for a sample in a pass.

        These are by the clock, from the commit of the last first shard to that of the last one:
        workers that start, and compete for what the machine has, are no guesses then. With one
        shard each, or less, they are the seconds of the shards.
        """
        told = self.commits.get(name, [])
        later = told[self.workers :]
        if later:
            n_samples = sum(event.n_samples for _, event in later)
            seconds = later[-1][0] - told[self.workers - 1][0]
            return self.workers * seconds / max(n_samples, 1)
        n_samples = sum(event.n_samples for _, event in told)
        return sum(event.seconds for _, event in told) / max(n_samples, 1)


def measured_plan(config: RunConfig) -> Plan:
    """Return the plan of a run with an estimate of all that it takes.

    A batch is explained, and few samples are run as a whole in a temporary folder; what comes of
    these cannot be told, if they cannot be run, and a note of the plan says why.

    Raises
    ------
    ConfigError, PlanError
        As `pipeline.planner.make_plan`.
    """
    started = time.monotonic()
    plan = make_plan(config, measure=True).plan
    planning = time.monotonic() - started
    # a run explains no batch to say how long it takes
    planning -= (plan.seconds or 0.0) * plan.batch_size / max(plan.n_samples, 1)
    try:
        found = estimate(config, plan, planning)
    except XpipeError as error:
        note = f"the run as a whole could not be estimated: {error.what}"
        return replace(plan, notes=(*plan.notes, note))
    return replace(plan, estimate=found)


def estimate(config: RunConfig, plan: Plan, planning: float) -> dict[str, float]:
    """Return the seconds of each part of a run, their ``total``, and ``worker_hours``.

    What a pass or the rest takes is taken to be a constant, in which workers start, and so much for
    each sample; workers share the latter. Samples, network, disk, engine and workers are those of
    the run, as far as this machine has them; neighbours on the machine and a cluster that is not
    this machine are not foreseen.

    Parameters
    ----------
    config
        What was asked for.
    plan
        What was decided, with the `seconds` of one worker.
    planning
        Seconds that this took, as far as they can be told from measuring; no less are taken than a
        rehearsal takes to plan.

    Raises
    ------
    XpipeError
        If so few samples cannot be run.
    """
    here, workers = (n_workers(each, len(plan.shards)) for each in (_here(config), config))
    shard, few = first_sizes(plan, here)
    with _started(_here(config)) as start:
        first = second = _rehearsed(config, plan, Rehearsal(few, here), shard)
        waves = min(WAVES, int(MOST_SECONDS / max(first.work, 1e-3)))
        more = min(waves * few, plan.n_samples)
        if more > few:
            second = _rehearsed(config, plan, Rehearsal(more, here), shard)
    found = {"planning": max(planning, second.planning), "start": start[0]}
    share = min(math.ceil(len(plan.shards) / workers) * plan.shard_size, plan.n_samples)
    for name, seconds in second.passes.items():
        each = second.each(name)
        constant = max(seconds - each * second.n_samples / here, 0.0)
        found[name] = constant + each * share
    constant, each = line((few, first.rest), (second.n_samples, second.rest))
    found[REST] = constant + each * plan.n_samples
    found["total"] = sum(found.values())
    found["workers"] = workers
    found["worker_hours"] = workers * found["total"] / 3600
    return found


def first_sizes(plan: Plan, workers: int) -> tuple[int, int]:
    """Return samples per shard of rehearsals, and samples of the first: a shard for each worker.

    Shards are those of the plan, or smaller where these would take long; the first rehearsal has a
    quarter of all samples at most.
    """
    row = (plan.seconds or 0.0) / max(plan.n_samples, 1)
    fitting = int(SECONDS / row) if row > 0 else plan.shard_size
    shard = max(1, min(plan.shard_size, fitting))
    few = max(1, min(workers * shard, plan.n_samples // WAVES))
    return max(1, min(shard, -(-few // workers))), few


def line(first: tuple[int, float], second: tuple[int, float]) -> tuple[float, float]:
    """Return constant and slope through two points; neither is negative, whatever the clock says.

    Points are numbers of samples and seconds.
    """
    (few, short), (more, long) = first, second
    if more <= few:
        return long, 0.0
    slope = min(max(long - short, 0.0) / (more - few), long / more)
    return max(long - slope * more, 0.0), slope


def n_workers(config: RunConfig, n_shards: int) -> int:
    """Return how many workers compute at the same time, as far as this machine tells."""
    engine = config.engine
    if engine.kind == "serial":
        return 1
    is_on_gpu = engine.gpus_per_worker != 0 and torch.cuda.is_available()
    there = processors() // engine.threads
    if is_on_gpu:
        each = 1.0 if engine.gpus_per_worker == "auto" else float(engine.gpus_per_worker)
        there = int(torch.cuda.device_count() / each)
    is_here = engine.address == "local"
    asked = there if engine.workers == "auto" else engine.workers
    # more of them than processors only take turns
    return max(1, min(asked, there if is_here else asked, n_shards))


def _here(config: RunConfig) -> RunConfig:
    """Return a run on this machine alone, with what it has."""
    engine = config.engine
    changes: dict[str, object] = {}
    if engine.address != "local":
        changes |= {"address": "local", "labels": {}, "resources": {}}
    if not torch.cuda.is_available():
        changes |= {"gpus_per_worker": 0.0, "accelerator_type": None}
    return config.model_copy(update={"engine": engine.model_copy(update=changes)})


@contextlib.contextmanager
def _started(config: RunConfig) -> Iterator[list[float]]:
    """Start the engine's platform for all rehearsals; the list then holds what that took.

    These are the seconds until it is up and, once the block is left, until it is down again.
    """
    began = time.monotonic()
    seconds = [0.0]
    engine = engines.get(config.engine.kind)(settings(config))
    try:
        engine.start()
        seconds[0] = time.monotonic() - began
        yield seconds
    finally:
        began = time.monotonic()
        engine.close()
        seconds[0] += time.monotonic() - began


def _rehearsed(config: RunConfig, plan: Plan, rehearsal: Rehearsal, shard: int) -> Rehearsal:
    """Run few samples, and note how long everything takes."""
    with tempfile.TemporaryDirectory(prefix="xpipe-") as folder:
        few = _small(config, plan, rehearsal, shard, folder)
        before = time.monotonic()
        summary = run(few, callbacks=(rehearsal,))
        seconds = time.monotonic() - before
        if summary.exit_code in (130, 143):
            raise KeyboardInterrupt
    rehearsal.planning = rehearsal.begun - before
    rest = seconds - rehearsal.planning - sum(rehearsal.passes.values())
    rehearsal.rest = max(rest, 0.0)
    return rehearsal


def _small(
    config: RunConfig, plan: Plan, rehearsal: Rehearsal, shard: int, folder: str
) -> RunConfig:
    """Return a run of few samples on this machine, that tells nobody.

    Samples are drawn where no limit is given: the first ones may be of one class.
    """
    n_samples = rehearsal.n_samples
    drawn = {"sample": n_samples, "stratify": "none"}
    data = drawn if config.data.limit is None else {"limit": n_samples}
    sizes = {"batch_size": min(plan.batch_size, shard), "workers": rehearsal.workers}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "engine": _here(config).engine.model_copy(update=sizes),
            "output": config.output.model_copy(
                update={"path": f"{folder}/run", "shard_size": shard}
            ),
            "callbacks": {},
            "gates": (),
        }
    )


def in_words(found: Mapping[str, float]) -> str:
    """Return an estimate for people; empty if there is none."""
    if not found:
        return ""
    parts = [
        f"{name} {duration(seconds)}"
        for name, seconds in found.items()
        if name not in ("total", "workers", "worker_hours")
    ]
    count = int(found["workers"])
    who = "1 worker" if count == 1 else f"{count} workers"
    hours = found["worker_hours"]
    return f"{duration(found['total'])} with {who}, {hours:.2g} worker-hours: {', '.join(parts)}"
