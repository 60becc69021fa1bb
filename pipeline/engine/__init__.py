"""Engines map a task over items of work; they know neither explainers nor metrics nor stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from explainers.registry import Registry
from pipeline.task import Outcome, ShardError, Status, Task, Worker, WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_EXCUSED",
    "Engine",
    "Outcome",
    "Settings",
    "ShardError",
    "Status",
    "Task",
    "WorkItem",
    "Worker",
    "engines",
]

MAX_ATTEMPTS = 3
"""A shard that failed so often is quarantined; machines that go away are not counted here."""
MAX_EXCUSED = 3
"""Machines that may go away under one shard before that is held against it: spot nodes go by
themselves, but a shard that fills a machine's memory takes it along each time."""


@dataclass(frozen=True)
class Settings:
    """How many workers, where, and with what."""

    address: str = "local"
    """``local``, ``auto`` (join a running cluster) or ``host:port``."""
    workers: int | str = "auto"
    """How many, or ``auto``: as many as fit on the nodes, counted again as nodes come."""
    threads: int = 1
    """Torch threads per worker."""
    gpus_per_worker: float | str = "auto"
    """GPUs per worker, or a share of one; ``auto`` is one where there are any, else none."""
    accelerator_type: str | None = None
    """Kind of GPU, by Ray's name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that a worker's node must have, as Ray's label selectors."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources that each worker takes."""
    patience: float | None = None
    """Seconds to wait for a node that a worker fits on; by the kind of cluster if None."""
    paths: tuple[str, ...] = ()
    """Folders that workers can import from: the run file's."""


class Engine(ABC):
    """Workers that stay alive between passes; a context manager.

    Parameters
    ----------
    settings
        How many workers, where, and with what.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def start(self) -> None:
        """Start the platform, if there is one to start; the workers may still be coming up."""

    @abstractmethod
    def map(
        self,
        task: Task,
        items: Iterable[WorkItem],
        *,
        on_outcome: Callable[[Outcome], None],
        stop: Callable[[], bool],
    ) -> list[Outcome]:
        """Do every item and return its last outcome.

        Parameters
        ----------
        task
            Opened once on each worker.
        items
            What is to be done.
        on_outcome
            Told every outcome, failed attempts included, in the caller's thread.
        stop
            Asked often; once true, what is in flight is finished and nothing else is begun.

        Returns
        -------
        list of Outcome
            One per item that was begun, ``committed``, ``skipped`` or ``quarantined``; ``failed``
            only where a fatal error ended the mapping.

        Raises
        ------
        EngineError
            If workers cannot be started or opened.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers, and the platform if it was started here."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


engines: Registry[type[Engine]] = Registry("engine", ["pipeline.engine"], "xpipe.engines")
"""Engines by the name that ``engine.kind`` gives."""
