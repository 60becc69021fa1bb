"""The work of `evaluate` on one shard: read inputs and maps, score every explainer, write."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from explainers import Samples, Target, Trace
from explainers.causal.graphs import graphs_of
from pipeline.data import open_source, read_batch, read_masks
from pipeline.inputs import to_model
from pipeline.ledger import Entry, Ledger
from pipeline.lengths import batches, without_filling
from pipeline.metrics import Case, Subject, build
from pipeline.networks import network_of
from pipeline.plan import EXPLAIN, suffix
from pipeline.reexplaining import again
from pipeline.scorable import GRAPH
from pipeline.sinks import scores as score_sink
from pipeline.store import open_run
from pipeline.task import Outcome, WorkItem
from pipeline.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    import xarray as xr
    from numpy.typing import NDArray

    from explainers import Network
    from pipeline.data import Record, Source
    from pipeline.inputs import Inputs
    from pipeline.metrics import Metric
    from pipeline.reexplaining import Again
    from pipeline.shards import Shard
    from pipeline.store import Run

Columns = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class EvaluateTask:
    """Score the stored maps of a run with one metric."""

    path: str
    """Folder of the run."""
    name: str
    """The metric's entry: names the pass and the folder of its scores."""
    settings: dict[str, Any]
    """``method`` and all parameters."""
    explainers: tuple[str, ...]
    """Whose maps are scored, or which scans' graphs."""
    digest: str
    """Of run, parameters and explainers; records carry it."""

    def open(self, worker: str) -> EvaluateWorker:
        """Return the worker."""
        return EvaluateWorker(self, worker)


class EvaluateWorker:
    """Holds the run, and the network where the metric needs one.

    Parameters
    ----------
    task
        What to do.
    worker
        Names the worker in the ledger.
    """

    def __init__(self, task: EvaluateTask, worker: str) -> None:
        self._task = task
        self._worker = worker
        self._run: Run = open_run(task.path)
        self._ledger = Ledger(task.path)
        self._metric: Metric = build(task.name, task.settings)
        self._writer = Writer()
        self._targets = [Target.parse(spec) for spec in self._run.plan.targets]
        # now, so that a model that cannot be loaded refuses before a shard is charged with it
        self._network = self._read_network() if self._needs("network") else None

    def __call__(self, item: WorkItem) -> Outcome | Future[Outcome]:
        """Score one shard; it is written and committed while the next one is scored."""
        started, clock = time.time(), time.monotonic()
        explained = self._ledger.entry(EXPLAIN, item.shard)
        n_failed = 0 if explained is None else explained.n_failed
        shard = self._run.plan.shards[item.shard]
        present = self._ledger.entry(item.pass_name, item.shard)
        if present is not None and present.digest == self._task.digest:
            return Outcome(item, "skipped", len(shard), n_failed, worker=self._worker)
        entry = Entry(
            pass_name=item.pass_name,
            shard=item.shard,
            digest=self._task.digest,
            attempt=item.attempt,
            epoch=item.epoch,
            started=started,
            worker=self._worker,
            batch_size=self._run.plan.batch_size,
            n_samples=len(shard),
            n_failed=n_failed,
        )
        return self._writer.submit(partial(self._commit, item, entry, self._score(shard), clock))

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.close()

    def _commit(
        self, item: WorkItem, entry: Entry, scores: dict[str, Columns], clock: float
    ) -> Outcome:
        objects: dict[str, str] = {}
        for name, columns in scores.items():
            objects |= score_sink.write(self._task.path, self._task.name, name, item.shard, columns)
        entry = replace(
            entry,
            objects=objects,
            seconds=time.monotonic() - clock,
            peak_memory=psutil.Process().memory_info().rss,
        )
        return Outcome(
            item,
            "committed" if self._ledger.commit(entry) else "skipped",
            entry.n_samples,
            entry.n_failed,
            entry.seconds,
            self._worker,
        )

    @cached_property
    def _source(self) -> Source:
        config = self._run.config
        return open_source(config.data, config.base)

    def _read_network(self) -> Network:
        """Return the network as the run read it."""
        run = self._run
        return network_of(run.config, run.plan, self._source, run.manifest)

    @cached_property
    def _maps(self) -> dict[str, xr.DataArray]:
        """Stored maps, opened once: shards that are scored were committed before."""
        return {name: self._run.maps[name] for name in self._task.explainers}

    @cached_property
    def _graphs(self) -> dict[str, Any]:
        """Links by class and layer of each scan whose graphs are scored."""
        return {name: graphs_of(self._run.scans[name]) for name in self._task.explainers}

    @cached_property
    def _explainers(self) -> dict[str, Again]:
        """What explains again, by name; nothing for metrics that do not."""
        return again(self._run, self._task.explainers) if self._needs("explainer") else {}

    def _stored(self, name: str, shard: Shard) -> NDArray[Any]:
        return np.asarray(self._maps[name].isel(sample=shard.rows).values)

    def _score(self, shard: Shard) -> dict[str, Columns]:
        """Return columns of the whole shard for each explainer; NaN where there is no score."""
        found: dict[str, Columns] = {name: {} for name in self._task.explainers}
        # as much as one worker held when it made them
        maps = {} if self._needs(GRAPH) else {name: self._stored(name, shard) for name in found}
        every = self._run.manifest.slice(shard.start, shard.stop)
        lengths = [record.length for record in every]
        for part in batches(lengths, self._run.plan.batch_size):
            records = [every[row] for row in part]
            inputs, rows = self._inputs(records)
            if not rows:
                continue
            place = np.array(part)[rows]
            for target, ending, case in self._cases(inputs, [records[row] for row in rows]):
                stored = {
                    name: self._of_length(name, each[place], records[0].length)
                    for name, each in maps.items()
                }
                scored = self._metric.scores(case, self._subjects(stored, target, place))
                for name, columns in scored.items():
                    for column, values in columns.items():
                        _place(found[name], column + ending, len(shard), place, values)
        return found

    def _subjects(
        self, stored: Mapping[str, NDArray[Any]], target: int, place: NDArray[Any]
    ) -> dict[str, Subject]:
        """Return what is scored of a batch for one target, by name."""
        if self._needs(GRAPH):
            nothing = torch.empty(len(place), 0)
            return {name: Subject(nothing, graph=each) for name, each in self._graphs.items()}
        return {
            name: Subject(self._relevance(values, target), self._explainers.get(name))
            for name, values in stored.items()
        }

    def _of_length(self, name: str, stored: NDArray[Any], length: int | None) -> NDArray[Any]:
        """Return maps of samples of one length without what fills them up."""
        if self._run.plan.lengths is None or length is None:
            return stored
        dims = [str(dim) for dim in self._maps[name].dims[1:]]
        return without_filling(stored, dims, length)

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self._network is None else self._network.device

    def _needs(self, what: str) -> bool:
        return what in self._metric.requires

    def _inputs(self, records: Sequence[Record]) -> tuple[Inputs | None, list[int]]:
        """Return the readable inputs and their rows; all rows for a metric that reads none."""
        if self._network is None:
            return None, list(range(len(records)))
        inputs, rows, _ = read_batch(self._source, records, self._run.plan.form)
        return inputs, rows

    def _cases(
        self, inputs: Inputs | None, records: Sequence[Record]
    ) -> list[tuple[int, str, Case]]:
        """Return position, suffix of columns and case of each target."""
        trace, network = None, self._network
        if inputs is not None and network is not None:
            samples = Samples(
                torch.tensor([record.index for record in records]),
                torch.tensor([record.label for record in records]),
            )
            trace = Trace(
                network,
                to_model(inputs, network.device, network.dtype),
                samples=samples,
                seed=self._run.config.seed,
                namespace=self._task.name,
            )
        mask = None
        if self._needs("masks"):
            # a row of values is an image of height 1
            height, width = (1, *self._run.plan.input_shape)[-2:]
            mask = read_masks(self._source, records, (height, width)).to(self._device)
        cases = []
        for position, target in enumerate(self._targets):
            # a unit of a layer is an output of the part of the network that ends there
            of, meant = (trace, target) if trace is None else trace.ending_at(target)
            cases.append((position, suffix(position), Case(of, meant, mask=mask)))
        return cases

    def _relevance(self, stored: NDArray[Any], target: int) -> torch.Tensor:
        """Return maps of one target, ``(batch, ...)``, as they were explained: in float32."""
        values = stored[:, target] if self._run.plan.has_target_dimension else stored
        return torch.from_numpy(np.array(values, dtype=np.float32)).to(self._device)


def _place(
    columns: Columns, column: str, n_rows: int, rows: NDArray[Any], values: torch.Tensor
) -> None:
    scored = values.detach().cpu().numpy()
    if column not in columns:
        columns[column] = np.full((n_rows, *scored.shape[1:]), np.nan, scored.dtype)
    columns[column][rows] = scored
