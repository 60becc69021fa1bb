"""A task that says where it ran: node, GPUs, and what the process sees of them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine import Outcome, WorkItem


@dataclass(frozen=True)
class Whereabouts:
    """Leaves a file per shard and attempt; waits for a file to appear, if one is named."""

    folder: str
    wait_for: str = ""
    seconds: float = 0.05

    def open(self, worker: str) -> WhereaboutsWorker:
        return WhereaboutsWorker(self, worker)


class WhereaboutsWorker:
    def __init__(self, task: Whereabouts, name: str) -> None:
        self.task = task
        self.name = name

    def __call__(self, item: WorkItem) -> Outcome:
        self.note("begun", item)
        folder = Path(self.task.folder)
        while self.task.wait_for and not (folder / self.task.wait_for).exists():
            time.sleep(0.05)
        time.sleep(self.task.seconds)
        self.note("done", item)
        return Outcome(item, "committed", n_samples=1, worker=self.name)

    def note(self, what: str, item: WorkItem) -> None:
        import ray

        context = ray.get_runtime_context()
        told = {
            "shard": item.shard,
            "attempt": item.attempt,
            "worker": self.name,
            "pid": os.getpid(),
            "node": context.get_node_id(),
            "gpus": context.get_accelerator_ids()["GPU"],
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "resources": context.get_assigned_resources(),
        }
        path = Path(self.task.folder) / f"{what}-{item.shard}-{item.attempt}-{self.name}.json"
        # whole or not at all: the driver reads while workers write, and die writing
        path.with_suffix(".part").write_text(json.dumps(told))
        path.with_suffix(".part").replace(path)

    def close(self) -> None:
        """Nothing is held."""


def told(folder: Path, what: str) -> list[dict[str, Any]]:
    """Return what was said, in the order of shards."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"{what}-*.json")]
    return sorted(found, key=lambda values: (values["shard"], values["attempt"]))
