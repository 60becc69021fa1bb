"""Files to begin with: what `xpipe init` copies out of the installed packages."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from explainers.registry import suggest
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

PACKAGE = "configs"
CLUSTERS = "clusters"
"""Files that launch clusters: a package of its own, and a template as a whole."""
RUN_FILE = "run.yaml"
GUIDE = "README.md"
_LEFT_OUT = ("__pycache__", "__init__.py")
_SHORT = {"audit": "full_audit"}
"""What templates may be called besides."""


def names() -> tuple[str, ...]:
    """Return the names of run files to begin with: folders, and files without their ending."""
    entries = (entry for entry in files(PACKAGE).iterdir() if entry.name not in _LEFT_OUT)
    return tuple(
        sorted(
            entry.name.removesuffix(".yaml")
            for entry in entries
            if entry.is_dir() or entry.name.endswith(".yaml")
        )
    )


def copy(template: str, folder: Path) -> list[Path]:
    """Copy a run file and what belongs to it, or the files for clusters, into a folder.

    The folder is made if need be.

    Returns
    -------
    list of Path
        What was written; the first is the run file, or the guide to files for clusters.

    Raises
    ------
    ConfigError
        If there is no such template, or a file of it is there already.
    """
    sources = _contents(_SHORT.get(template, template))
    present = [folder / name for name in sources if (folder / name).exists()]
    if present:
        raise ConfigError(
            f"{present[0]} exists already, and init does not write over files",
            fix="give another name: xpipe init NAME",
            page="exists-already",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        with as_file(source) as path:
            (folder / name).write_bytes(path.read_bytes())
    return sorted(
        (folder / name for name in sources), key=lambda path: path.name not in (RUN_FILE, GUIDE)
    )


def _contents(template: str) -> dict[str, Traversable]:
    if template == CLUSTERS:
        return _files(files(CLUSTERS))
    if template not in names():
        raise ConfigError(
            f"unknown template {template!r}; {suggest(template, (*names(), CLUSTERS))}",
            fix="xpipe init --help lists the templates",
            page="unknown-name",
        )
    root = files(PACKAGE)
    if root.joinpath(f"{template}.yaml").is_file():
        return {RUN_FILE: root.joinpath(f"{template}.yaml")}
    return _files(root.joinpath(template))


def _files(folder: Traversable) -> dict[str, Traversable]:
    return {
        entry.name: entry
        for entry in folder.iterdir()
        if entry.is_file() and entry.name not in _LEFT_OUT
    }
