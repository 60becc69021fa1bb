"""What a format is: a name, what it writes, and how."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from explainers.registry import Registry
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.export.contents import Contents


@dataclass(frozen=True)
class Format:
    """One way to write a run."""

    file_name: str
    """Of what is written, a file or a folder."""
    write: Callable[[Contents, Path], None]
    """Writes contents to a path."""


formats: Registry[Format] = Registry("export format", ("pipeline.export",), "xpipe.exports")


def register(
    name: str, file_name: str
) -> Callable[[Callable[[Contents, Path], None]], Callable[[Contents, Path], None]]:
    """Return a decorator that enters a function as a format."""

    def enter(write: Callable[[Contents, Path], None]) -> Callable[[Contents, Path], None]:
        formats.register(name)(Format(file_name, write))
        return write

    return enter


def library(name: str) -> Any:
    """Return a module of the extra `export`.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"this format needs {name}, which is not installed",
            fix="pip install 'xpipe-xai[export]'",
            page="missing-extra",
        ) from error
