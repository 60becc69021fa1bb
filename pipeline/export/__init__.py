"""A run in formats of other tools: each module of this package is one format, discovered."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, StoreError
from pipeline.export.contents import Contents, refuse_unknown
from pipeline.export.formats import formats
from pipeline.store import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.store import Run

__all__ = ["export", "formats"]

FOLDER = "export"
"""Where exports are in a run's folder, unless another place is named."""


def export(
    run: str | PurePath | Run,
    name: str,
    out: str | Path | None = None,
    explainers: Sequence[str] | None = None,
) -> Path:
    """Write a run in another format and return the file or folder.

    Shards are read one after the other, so that memory holds one of them. Maps of samples that
    failed, and of shards that are not done, are NaN, as in the run.

    Parameters
    ----------
    run
        A run's folder, or the opened run.
    name
        ``hdf5``, ``netcdf``, ``npz`` or ``virelay``.
    out
        What to write, which must not be there; if not given, it is in the folder ``export`` of the
        run, and replaces what was exported before. Of a run in an object store it is in a folder of
        the run's name, here.
    explainers
        Whose maps; all if not given.

    Raises
    ------
    ConfigError
        If there is no such format or explainer, or a library for it is missing.
    StoreError
        If `out` is there already.
    """
    opened = open_run(run) if isinstance(run, (str, PurePath)) else run
    try:
        made = formats.get(name)
    except LookupError as error:
        raise ConfigError(
            str(error.args[0]), fix=f"one of {', '.join(formats.names())}", page="unknown-name"
        ) from error
    refuse_unknown(opened, explainers)
    target = _default(opened, made.file_name) if out is None else Path(out)
    if out is not None and target.exists():
        raise StoreError(
            f"{target} is there already",
            fix="remove it, or name another with --out",
            page="exists-already",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(target) as temporary:
        made.write(Contents(opened, explainers), temporary)
    return target


def _default(run: Run, file_name: str) -> Path:
    folder = Path(run.path) / FOLDER if run.folder.is_local else Path.cwd() / run.config.name
    return folder / file_name


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a path beside the target, which takes its place at the end and is gone otherwise."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp{target.suffix}")
    try:
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
