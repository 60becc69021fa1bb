"""Functions that a run file names: ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


_FOLDER = "__xpipe_folder__"
"""Attribute of modules that came from beside a user's file."""


def find(spec: str, base: Path) -> Callable[..., Any]:
    """Return the function that `spec` names.

    A file is imported under a name of its own, so that it hides no module and two files of the
    same name do not meet; its folder can be imported from while it is being imported.

    Parameters
    ----------
    spec
        ``file.py:function``, the file relative to `base`, or ``package.module:function``.
    base
        Folder of the run file.

    Raises
    ------
    PlanError
        If there is no such file, module or function, or importing it fails.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise PlanError(
            f"got {spec!r}, expected 'file.py:function' or 'package.module:function'",
            fix="put a colon between the file and the function",
            page="your-code",
        )
    module = _from_file(base / where) if where.endswith(".py") else _from_package(where)
    function = getattr(module, name, None)
    if not callable(function):
        from explainers.registry import suggest

        names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise PlanError(
            f"{where!r} has no function {name!r}",
            fix=suggest(name, names) if names else f"define {name!r} in it",
            page="your-code",
        )
    found: Callable[..., Any] = function
    return found


def file_of(spec: str, base: Path) -> Path | None:
    """Return the file that `spec` names, if it names one and not a package."""
    where, _, _ = spec.rpartition(":")
    return base / where if where.endswith(".py") else None


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise PlanError(
            f"cannot import {name!r}: {type(error).__name__}: {error}",
            fix="install the package that has it, or name a file: 'file.py:function'",
            page="your-code",
        ) from error


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"cannot read the python file {str(path)!r}: {error.strerror}",
            fix="name an existing file, relative to the run file",
            page="your-code",
        ) from error
    # the content is part of the name, so that an edited file is not taken for the imported one
    key = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:12]
    name = f"xpipe_user_{path.stem}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None:
        raise PlanError(
            f"{str(path)!r} is not a python file",
            fix="name a file that ends in .py",
            page="your-code",
        )
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            # not by the loader: bytecode that it has cached is told apart by size and second only,
            # so that a file edited twice within one would run as it was before
            exec(compile(content, str(path), "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        raise PlanError(
            f"importing {str(path)!r} failed: {type(error).__name__}: {error}",
            fix="the file must be importable by itself; try `python` on it",
            page="your-code",
        ) from error
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules in a folder be imported; those of other folders do not stand in for them."""
    for name, module in list(sys.modules.items()):
        if getattr(module, _FOLDER, folder) != folder:
            del sys.modules[name]
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] not in before and _is_beside(sys.modules[name], folder):
                setattr(sys.modules[name], _FOLDER, folder)


def _is_beside(module: ModuleType, folder: Path) -> bool:
    """Return whether a module is the user's own, not of an environment kept in the folder."""
    file = getattr(module, "__file__", None)
    if file is None or "site-packages" in Path(file).parts:
        return False
    return Path(file).is_relative_to(folder)
