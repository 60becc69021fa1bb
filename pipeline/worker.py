"""The work of a run on one shard: read, explain, write, and commit when all of it is durable."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from explainers import Attribution, Target
from pipeline import memory
from pipeline.acceleration import parity, trying
from pipeline.acceleration.switches import Accelerator
from pipeline.data import open_source
from pipeline.explanation import Explanation
from pipeline.ledger import Entry, Ledger
from pipeline.manifest import Manifest
from pipeline.networks import network_of, vocabularies
from pipeline.paths import MANIFEST, Folder
from pipeline.plan import EXPLAIN
from pipeline.prefetch import Reader, open_decoders
from pipeline.sinks.maps import MapSink
from pipeline.task import Outcome, ShardError, WorkItem
from pipeline.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from explainers import Explainer, Network, Round
    from pipeline.config import RunConfig
    from pipeline.plan import Plan
    from pipeline.prefetch import Batch
    from pipeline.products import Products
    from pipeline.shards import Shard

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors other than `torch.OutOfMemoryError` say when memory ran out."""

OBJECTS_AT_ONCE = 4
"""Objects of a shard that are written together; most of the time they wait for the disk."""


@dataclass(frozen=True)
class ExplainTask:
    """Explain the samples of a run: one pass over its shards."""

    path: str
    """Folder of the run."""
    config: RunConfig
    """What was asked for."""
    plan: Plan
    """What was decided."""
    pass_name: str
    """Names the pass."""
    attributions: Mapping[str, Explainer] = field(default_factory=dict)
    """Entries that make maps in this pass, with the results that they need."""
    rounds: Mapping[str, Round] = field(default_factory=dict)
    """Scans to the rounds that fold in this pass, with what earlier rounds decided."""

    def open(self, worker: str) -> ExplainWorker:
        """Return the worker; the model is read here."""
        return ExplainWorker(self, worker)


class ExplainWorker:
    """Holds the network, the source and the store.

    Parameters
    ----------
    task
        What to do.
    worker
        Names the worker in the ledger.
    """

    def __init__(self, task: ExplainTask, worker: str) -> None:
        self._task = task
        self._name = worker
        self._shards = task.plan.shards
        self._batch_size = task.plan.batch_size
        self._ledger = Ledger(task.path)
        self._sink = MapSink(task.path)
        self._manifest = Manifest.read(Folder(task.path).at_url(MANIFEST))
        source = open_source(task.config.data, task.config.base, task.config.where)
        network = network_of(task.config, task.plan, source, self._manifest)
        self._explanation = self._prepare(network)
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._decoders = open_decoders(source, task.config.engine.decode_threads)
        self._reader = Reader(
            source,
            self._manifest,
            task.plan.form,
            self._readers,
            is_pinned=self._explanation.network.device.type == "cuda",
            lengths=task.plan.lengths,
            vocabularies=vocabularies(network),
            decoders=self._decoders,
            depth=task.config.engine.prefetch,
        )
        self._compare()
        self._writer = Writer()
        self._objects = ThreadPoolExecutor(OBJECTS_AT_ONCE, thread_name_prefix="objects")

    def __call__(self, item: WorkItem) -> Outcome | Future[Outcome]:
        """Explain one shard; it is committed while the next one is explained."""
        started, clock = time.time(), time.monotonic()
        present = self._ledger.entry(item.pass_name, item.shard)
        if present is not None and present.digest == self._task.plan.digest:
            return self._outcome(item, "skipped", present)
        waiting = Stopwatch()
        try:
            products = self._explain(self._shards[item.shard], waiting)
        except Exception as error:  # anybody's model and explainers: it becomes the shard's error
            ids = self._explanation.sample_ids
            return self._failed(item, error, time.monotonic() - clock, ids)
        phases = {"read": waiting.seconds, "compute": time.monotonic() - clock - waiting.seconds}
        return self._writer.submit(partial(self._finish, item, products, started, clock, phases))

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.close()
        self._objects.shutdown()
        self._readers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def _prepare(self, network: Network) -> Explanation:
        task = self._task
        attributions = {
            name: each for name, each in task.attributions.items() if isinstance(each, Attribution)
        }
        return Explanation(
            network,
            task.plan,
            task.config.seed,
            attributions,
            task.rounds,
            tuple(Target.parse(spec) for spec in task.plan.targets),
            is_first=task.pass_name == EXPLAIN,
            accelerator=Accelerator.of(task.config.engine),
        )

    def _compare(self) -> None:
        """Refuse passes that are faster than float32 if their maps of a first batch are others.

        When the task is opened: nothing is committed by a worker that has not passed.

        Raises
        ------
        PlanError
            If any explainer's are, or the network cannot be compiled here.
        """
        task, accelerator = self._task, Accelerator.of(self._task.config.engine)
        if not task.attributions or not accelerator.changes(self._explanation.network.device):
            return
        size = min(self._batch_size, parity.MOST_ROWS)
        batches = (
            batch for shard in self._shards for batch in self._reader.batches(shard, size, None)
        )
        with contextlib.closing(batches):
            batch = next((each for each in batches if each.rows), None)
        with trying.compiling(task.config):
            found = [] if batch is None else self._explanation.differences(batch)
        parity.write(task.path, task.pass_name, self._name, found)
        parity.refuse(found, task.config.where("engine"), accelerator.in_words())
        if far := parity.outliers(found):
            logger.warning("%s: %s", accelerator.in_words(), far)

    def _explain(self, shard: Shard, waiting: Stopwatch) -> Products:
        """Explain a shard; when memory runs out, again in smaller batches, also from then on.

        `waiting` measures how long nothing was computed for want of samples.
        """
        wanted = self._explanation.wanted(shard)
        while True:
            try:
                batches = self._reader.batches(shard, self._batch_size, wanted)
                with contextlib.closing(batches):
                    return self._explanation.explain(shard, waiting.over(batches))
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size = (self._batch_size + 1) // 2
                logger.warning(
                    "out of memory in shard %s; batches of %s from now on",
                    shard.index,
                    self._batch_size,
                )
            # here, where the error and the tensors that its traceback holds are gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _finish(
        self,
        item: WorkItem,
        products: Products,
        started: float,
        clock: float,
        phases: dict[str, float],
    ) -> Outcome:
        """Write a shard, and commit it: in the writer's thread."""
        try:
            return self._commit(item, products, started, clock, phases)
        except Exception as error:  # whatever a store raises; it is the shard's
            return self._failed(item, error, time.monotonic() - clock)

    def _commit(
        self,
        item: WorkItem,
        products: Products,
        started: float,
        clock: float,
        phases: dict[str, float],
    ) -> Outcome:
        task, shard = self._task, products.shard
        records = self._manifest.slice(shard.start, shard.stop)
        begun = time.monotonic()
        objects = products.write(
            task.path, item.pass_name, self._sink, task.plan, records, self._objects
        )
        phases = {**phases, "write": time.monotonic() - begun}
        entry = Entry(
            pass_name=item.pass_name,
            shard=item.shard,
            digest=task.plan.digest,
            objects=objects,
            attempt=item.attempt,
            epoch=item.epoch,
            started=started,
            seconds=time.monotonic() - clock,
            worker=self._name,
            batch_size=self._batch_size,
            peak_memory=memory.peak(),
            n_samples=len(shard),
            n_failed=len(products.failures),
            not_finite=products.not_finite,
            phases=phases,
        )
        is_first = self._ledger.commit(entry)
        if is_first and item.pass_name == EXPLAIN:
            # only here: every later pass, metrics and the report read these samples again
            for row, reason in sorted(products.failures.items()):
                logger.warning("sample left out: %s: %s", records[row].sample_id, reason)
        return self._outcome(item, "committed" if is_first else "skipped", entry)

    def _outcome(self, item: WorkItem, status: str, entry: Entry) -> Outcome:
        return Outcome(
            item,
            "committed" if status == "committed" else "skipped",
            n_samples=entry.n_samples,
            n_failed=entry.n_failed,
            seconds=entry.seconds,
            worker=self._name,
        )

    def _failed(
        self, item: WorkItem, error: Exception, seconds: float, sample_ids: tuple[str, ...] = ()
    ) -> Outcome:
        record = ShardError.of(error, item.shard, sample_ids)
        return Outcome(item, "failed", seconds=seconds, worker=self._name, error=record)


class Stopwatch:
    """How long somebody waited for what an iterator gives."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield what `batches` gives, and count the time until it is there."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self.seconds += time.monotonic() - started
            if batch is None:
                return
            yield batch


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        phrase in str(error) for phrase in OUT_OF_MEMORY
    )
