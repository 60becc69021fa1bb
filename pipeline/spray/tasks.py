"""The work of a spectral analysis on one shard: pool its maps; change its inputs and ask."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import psutil

from pipeline import paths
from pipeline.data import open_source, read_batch
from pipeline.inputs import ALONE, parts_of, to_model
from pipeline.ledger import Entry, Ledger
from pipeline.networks import network_of
from pipeline.sinks import columns as parquet
from pipeline.spray import stored
from pipeline.spray.counterfactual import outcomes
from pipeline.spray.pooling import pooled
from pipeline.spray.probes import KINDS
from pipeline.store import open_run
from pipeline.task import Outcome

if TYPE_CHECKING:
    import xarray as xr

    from pipeline.data import Source
    from pipeline.shards import Shard
    from pipeline.store import Run
    from pipeline.task import WorkItem


@dataclass(frozen=True)
class PoolTask:
    """Pool the maps of an explainer."""

    path: str
    """Folder of the run."""
    explainer: str
    n_axes: int
    """Axes of a map that hold positions."""
    grid: int | None
    sign: str
    digest: str
    """Records carry it."""

    def open(self, worker: str) -> PoolWorker:
        """Return the worker."""
        return PoolWorker(self, worker)


@dataclass(frozen=True)
class CheckTask:
    """Erase and paste regions in the inputs of a run."""

    path: str
    """Folder of the run."""
    explainer: str
    digest: str
    """Records carry it."""

    def open(self, worker: str) -> CheckWorker:
        """Return the worker; the model is read here."""
        return CheckWorker(self, worker)


class _ShardWorker(ABC):
    """Commits one object of each shard.

    Parameters
    ----------
    task
        What to do.
    worker
        Names the worker in the ledger.
    """

    def __init__(self, task: PoolTask | CheckTask, worker: str) -> None:
        self._worker = worker
        self._digest = task.digest
        self._run: Run = open_run(task.path)
        self._ledger = Ledger(task.path)

    def __call__(self, item: WorkItem) -> Outcome:
        """Do one shard."""
        started, clock = time.time(), time.monotonic()
        shard = self._run.plan.shards[item.shard]
        present = self._ledger.entry(item.pass_name, item.shard)
        if present is not None and present.digest == self._digest:
            return Outcome(item, "skipped", len(shard), worker=self._worker)
        entry = Entry(
            pass_name=item.pass_name,
            shard=item.shard,
            digest=self._digest,
            objects=self._made(shard),
            attempt=item.attempt,
            epoch=item.epoch,
            started=started,
            seconds=time.monotonic() - clock,
            worker=self._worker,
            batch_size=self._run.plan.batch_size,
            peak_memory=psutil.Process().memory_info().rss,
            n_samples=len(shard),
        )
        is_first = self._ledger.commit(entry)
        return Outcome(
            item,
            "committed" if is_first else "skipped",
            entry.n_samples,
            seconds=entry.seconds,
            worker=self._worker,
        )

    def close(self) -> None:
        """Let go of nothing: what a shard has is written before its record."""
        return

    @abstractmethod
    def _made(self, shard: Shard) -> dict[str, str]:
        """Write what belongs to a shard, and return its objects and their SHA-256."""


class PoolWorker(_ShardWorker):
    """Holds the maps."""

    def __init__(self, task: PoolTask, worker: str) -> None:
        super().__init__(task, worker)
        self._task = task

    @cached_property
    def _maps(self) -> xr.DataArray:
        return self._run.maps[self._task.explainer]

    def _made(self, shard: Shard) -> dict[str, str]:
        task = self._task
        maps = np.asarray(self._maps.isel(sample=shard.rows).values)
        # of several targets the first: clusters are of one question
        maps = maps[:, 0] if self._run.plan.has_target_dimension else maps
        vectors, is_defined = pooled(maps, task.n_axes, task.grid, task.sign)
        arrays = {"vectors": vectors, "is_defined": is_defined}
        path = stored.pooled_path(task.explainer, shard.index)
        return stored.put(task.path, path, {}, arrays)


class CheckWorker(_ShardWorker):
    """Holds the network, the source and what is to be checked."""

    def __init__(self, task: CheckTask, worker: str) -> None:
        super().__init__(task, worker)
        self._task = task
        self._checks = stored.read_probes(task.path, task.explainer)
        # now, so that a model that cannot be loaded refuses before a shard is charged with it
        run = self._run
        self._network = network_of(run.config, run.plan, self._source, run.manifest)
        every = [each.samples(kind) for each in self._checks for kind in KINDS]
        self._wanted = np.unique(np.concatenate(every)) if every else np.empty(0, np.int64)

    @cached_property
    def _source(self) -> Source:
        config = self._run.config
        return open_source(config.data, config.base)

    def _made(self, shard: Shard) -> dict[str, str]:
        first, last = np.searchsorted(self._wanted, (shard.start, shard.stop))
        samples = self._wanted[first:last]
        every = self._run.manifest.slice(shard.start, shard.stop)
        records = [every[sample - shard.start] for sample in samples]
        inputs, rows, _ = read_batch(self._source, records, self._run.plan.form)
        network = self._network
        found = outcomes(
            network,
            parts_of(to_model(inputs, network.device, network.dtype))[ALONE],
            samples[rows],
            self._checks,
            self._run.plan.batch_size,
        )
        path = stored.outcomes_path(self._task.explainer, shard.index)
        content = parquet.to_bytes(parquet.table(found))
        return {path: paths.Folder(self._task.path).write(path, content)}
