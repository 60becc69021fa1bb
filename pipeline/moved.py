"""Runs whose run file's own files are elsewhere now: sent as a job, copied, or its folder moved."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.config import dump
from pipeline.errors import ConfigError, EngineError, PlanError
from pipeline.ownership.lock import refuse_if_owned
from pipeline.store import open_run
from pipeline.urls import located

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = "run-moved"


def rebase(path: str, base: str | Path) -> None:
    """Write into a run where the files are now that its run file names relative to itself.

    Workers read it from there. The run goes on on this machine from then on: the cluster that it
    ran on would not see the folder. Neither is part of the digest.

    Raises
    ------
    PlanError
        If there is no such folder.
    RunConflictError
        If somebody works on the run, who may be reading from the folder before.
    """
    folder = Path(base).resolve()
    if not folder.is_dir():
        raise PlanError(
            f"--base {str(base)!r} is no folder",
            fix="name the folder in which the run file was",
            page=PAGE,
        )
    run = open_run(path)
    refuse_if_owned(located(path))
    engine = run.config.engine.model_copy(update={"address": "local"})
    config = run.config.model_copy(update={"base": folder, "engine": engine})
    paths.Folder(located(path)).write(paths.RUN_FILE, dump(config).encode())


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Say of what fails in a with block that the folder of the run file is gone, if it is.

    Raises
    ------
    PlanError
        In place of an error about model, data or cluster, where that folder is not on this machine.
    """
    try:
        yield
    except (ConfigError, EngineError, PlanError) as error:
        base = open_run(path).config.base
        if error.page == PAGE or base.is_dir():
            raise
        raise PlanError(
            f"{error.what}; the run file's own folder, {str(base)!r}, is not on this machine",
            fix="say where its files are now: --base FOLDER",
            page=PAGE,
        ) from error
