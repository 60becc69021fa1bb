"""What runs on an actor; it travels by value, so that it can mend the path before importing us.

Ray puts the driver's folder first on a worker's path: a folder named ``pipeline`` there would be
imported instead of this package. So this module imports nothing of ours at its top.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.task import Outcome, Worker, WorkItem


class Journal:
    """Which item each worker has started last; outlives the workers, on the driver's own node."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, int]] = {}

    def started(self, worker: str, key: tuple[str, int, int]) -> None:
        """Take note that a worker starts an attempt: pass, shard, number of the attempt."""
        self._last[worker] = key

    def last(self, worker: str) -> tuple[str, int, int] | None:
        """Return what a worker has started last."""
        return self._last.get(worker)


class Host:
    """An actor: opens tasks, and runs items one at a time while earlier ones are being written.

    Parameters
    ----------
    name
        Names it in the journal, in events and in the ledger.
    journal
        Handle of the `Journal`.
    threads
        Torch threads.
    has_gpu
        Whether it has been given a GPU, or a share of one.
    paths
        Folders to import from, first one first; those that are not here are left out.
    """

    def __init__(
        self, name: str, journal: Any, threads: int, has_gpu: bool, paths: tuple[str, ...]
    ) -> None:
        self._name = name
        self._journal = journal
        self._threads = threads
        self._turn = threading.Lock()
        self._worker: Worker | None = None
        # read when torch loads OpenMP, which is later
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if not has_gpu:
            # a GPU of the machine that Ray has not given us is somebody else's
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # `pipeline.acceleration.gpus.GIVEN`: who computes asks whether the GPU is really there
        os.environ["XPIPE_HAS_GPU"] = str(int(has_gpu))
        # packages that Ray has shipped lie in folders of this name
        shipped = [entry for entry in sys.path if "_ray_pkg_" in entry]
        here = [path for path in paths if os.path.isdir(path)]
        rest = [entry for entry in sys.path if entry not in shipped and entry not in here]
        sys.path[:] = shipped + here + rest

    def open(self, task: bytes, _previous: str | None = None) -> str:
        """Open a pickled task, closing the one before; return which node this is.

        Parameters
        ----------
        task
            The task, pickled by the driver.
        _previous
            Result of an earlier call that may still be going on; Ray waits for it.
        """
        import ray
        import torch

        torch.set_num_threads(self._threads)
        before = self._worker
        # before the old one is closed, so that they can share what takes long to make
        self._worker = pickle.loads(task).open(self._name)
        if before is not None:
            before.close()
        return str(ray.get_runtime_context().get_node_id())

    def run(self, item: WorkItem) -> Outcome:
        """Do one item; two of these run at once, but only one of them computes."""
        from pipeline.task import Outcome, ShardError

        started = time.monotonic()
        try:
            result = self._compute(item)
            return result.result() if isinstance(result, Future) else result
        except Exception as error:  # user code may raise anything; it is reported, not dropped
            seconds = time.monotonic() - started
            record = ShardError.of(error, item.shard)
            return Outcome(item, "failed", seconds=seconds, worker=self._name, error=record)

    def _compute(self, item: WorkItem) -> Outcome | Future[Outcome]:
        import ray
        import torch

        with self._turn:
            key = (item.pass_name, item.shard, item.attempt)
            # waits until the journal has it: a process that is killed next cannot take it along
            ray.get(self._journal.started.remote(self._name, key))
            # OpenMP keeps the number per thread, and Ray runs methods on several
            torch.set_num_threads(self._threads)
            if self._worker is None:
                raise RuntimeError("no task is open on this worker")
            return self._worker(item)

    def close(self) -> None:
        """Close the worker that is open."""
        with self._turn:
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.close()
