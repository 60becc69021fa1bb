"""Run a configuration from plan to report, or go on with a run that was cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.lock import Owner, owner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.config import RunConfig
    from pipeline.events import Callback

__all__ = ["Owner", "RunSummary", "owner", "resume", "run"]


@dataclass(frozen=True)
class RunSummary:
    """What became of a run."""

    path: Path
    """Its folder."""
    exit_code: int
    """0 done, 5 with quarantined shards or failed samples, 130 or 143 interrupted."""
    n_samples: int
    """Samples in the manifest."""
    n_failed: int
    """Samples that could not be used."""
    quarantined: tuple[tuple[str, int], ...]
    """Pass and shard of each shard that was given up."""
    seconds: float
    """Time this start took."""
    report: Path | None = None
    """The page, where one was built."""


def run(
    config: RunConfig,
    *,
    only: Sequence[str] | None = None,
    limit: int | None = None,
    callbacks: Sequence[Callback] = (),
    take_over: bool = False,
) -> RunSummary:
    """Plan and run a configuration; a folder with the same digest is resumed."""
    raise NotImplementedError


def resume(
    path: str | Path, *, callbacks: Sequence[Callback] = (), take_over: bool = False
) -> RunSummary:
    """Go on with the run in a folder."""
    raise NotImplementedError
