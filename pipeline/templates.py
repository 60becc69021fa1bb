"""Run files to begin with: what `xpipe init` copies out of the installed package."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from explainers.registry import suggest
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

PACKAGE = "configs"
RUN_FILE = "run.yaml"
_LEFT_OUT = ("__pycache__", "__init__.py")
_SHORT = {"audit": "full_audit"}
"""What templates may be called besides."""


def names() -> tuple[str, ...]:
    """Return the names of the templates: folders, and single run files without their ending."""
    entries = (entry for entry in files(PACKAGE).iterdir() if entry.name not in _LEFT_OUT)
    return tuple(
        sorted(
            entry.name.removesuffix(".yaml")
            for entry in entries
            if entry.is_dir() or entry.name.endswith(".yaml")
        )
    )


def copy(template: str, folder: Path) -> list[Path]:
    """Copy a template into a folder, which is made if need be.

    Returns
    -------
    list of Path
        What was written; the first is the run file.

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
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        with as_file(source) as path:
            (folder / name).write_bytes(path.read_bytes())
    return sorted((folder / name for name in sources), key=lambda path: path.name != RUN_FILE)


def _contents(template: str) -> dict[str, Traversable]:
    if template not in names():
        raise ConfigError(
            f"unknown template {template!r}; {suggest(template, names())}",
            fix="xpipe init --help lists the templates",
        )
    root = files(PACKAGE)
    if root.joinpath(f"{template}.yaml").is_file():
        return {RUN_FILE: root.joinpath(f"{template}.yaml")}
    return {
        entry.name: entry
        for entry in root.joinpath(template).iterdir()
        if entry.is_file() and entry.name not in _LEFT_OUT
    }
