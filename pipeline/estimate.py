"""How long a run will take as a whole: rehearsed with few samples, twice, and drawn out to all."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from pipeline.errors import XpipeError
from pipeline.events import PassFinished
from pipeline.planner import make_plan
from pipeline.quantities import duration
from pipeline.run import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.config import RunConfig
    from pipeline.events import Event
    from pipeline.plan import Plan

SECONDS = 4.0
"""That explaining the samples of the first rehearsal may take; the second has more of them."""
MORE = 4
"""Times as many samples in the second rehearsal as in the first."""
RAY_SECONDS = 4.0
"""For a local Ray to come up, beside the time that its workers take to import torch; 3.7 to 6.7
were measured for both on two cores."""
REST = "the rest"
"""Part of a run that is no pass: scores are summed up, gates judged, pages built."""


@dataclass
class Rehearsal:
    """Seconds of the passes of a run, by name; a callback."""

    passes: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Note how long a pass took."""
        if isinstance(event, PassFinished):
            self.passes[event.pass_name] = event.seconds


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
    try:
        found = estimate(config, plan, time.monotonic() - started)
    except XpipeError as error:
        note = f"the run as a whole could not be estimated: {error.what}"
        return replace(plan, notes=(*plan.notes, note))
    return replace(plan, estimate=found)


def estimate(config: RunConfig, plan: Plan, planning: float) -> dict[str, float]:
    """Return the seconds of each part of a run, their ``total``, and ``worker_hours``.

    What a pass or the rest takes is taken to be a constant and so much for each sample; workers
    share the latter. Samples, network, disk and machine are those of the run; neighbours on the
    machine and a cluster that is not this machine are not foreseen.

    Parameters
    ----------
    config
        What was asked for.
    plan
        What was decided, with the `seconds` of one worker.
    planning
        Seconds that this took.

    Raises
    ------
    XpipeError
        If so few samples cannot be run.
    """
    row = (plan.seconds or 0.0) / max(plan.n_samples, 1)
    fitting = int(SECONDS / row) if row > 0 else plan.shard_size
    few = max(1, min(plan.shard_size, fitting, -(-plan.n_samples // MORE)))
    more = min(MORE * few, plan.n_samples)
    first, second = (_rehearsed(config, plan, n) for n in (few, more))
    workers = n_workers(config, len(plan.shards))
    found = {"planning": planning, "start": _start(config, workers)}
    for name in second:
        constant, each = line((few, first.get(name, 0.0)), (more, second[name]))
        share = plan.n_samples if name == REST else math.ceil(plan.n_samples / workers)
        found[name] = constant + each * share
    found["total"] = sum(found.values())
    found["workers"] = workers
    found["worker_hours"] = workers * found["total"] / 3600
    return found


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
    there = (os.cpu_count() or 1) // engine.threads
    if is_on_gpu:
        each = 1.0 if engine.gpus_per_worker == "auto" else float(engine.gpus_per_worker)
        there = int(torch.cuda.device_count() / each)
    is_here = engine.address == "local"
    asked = there if engine.workers == "auto" else engine.workers
    # more of them than processors only take turns
    return max(1, min(asked, there if is_here else asked, n_shards))


def _rehearsed(config: RunConfig, plan: Plan, n_samples: int) -> dict[str, float]:
    """Return the seconds of each pass, and of the rest, of a run of few samples."""
    with tempfile.TemporaryDirectory(prefix="xpipe-") as folder:
        few = _small(config, plan, n_samples, folder)
        rehearsal, before = Rehearsal(), time.monotonic()
        planned: list[float] = []

        def tell(event: Event) -> None:
            if not planned:
                planned.append(time.monotonic() - before)
            rehearsal(event)

        summary = run(few, callbacks=(tell,))
        if summary.exit_code in (130, 143):
            raise KeyboardInterrupt
        rest = summary.seconds - sum(planned) - sum(rehearsal.passes.values())
    return {**rehearsal.passes, REST: max(rest, 0.0)}


def _small(config: RunConfig, plan: Plan, n_samples: int, folder: str) -> RunConfig:
    """Return a run of few samples in this process, with the sizes of the plan, that tells nobody.

    Samples are drawn where no limit is given: the first ones may be of one class.
    """
    shard = min(plan.shard_size, n_samples)
    drawn = {"sample": n_samples, "stratify": "none"}
    data = drawn if config.data.limit is None else {"limit": n_samples}
    sizes = {"batch_size": min(plan.batch_size, shard)}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "engine": config.engine.model_copy(update={"kind": "serial", **sizes}),
            "output": config.output.model_copy(
                update={"path": f"{folder}/run", "shard_size": shard}
            ),
            "callbacks": {},
            "gates": (),
        }
    )


def _start(config: RunConfig, workers: int) -> float:
    """Return the seconds until workers are there: each imports what it needs."""
    if config.engine.kind == "serial":
        return 0.0
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import pipeline.worker"], check=False)
    turns = math.ceil(workers / (os.cpu_count() or 1))
    joined = RAY_SECONDS if config.engine.address == "local" else 0.0
    return joined + turns * (time.monotonic() - started)


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
