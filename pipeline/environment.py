"""Where a run was made: versions, machine, source revision, seeds and digests."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipeline import paths

if TYPE_CHECKING:
    from pathlib import Path

    from explainers import Scan
    from pipeline.config import RunConfig
    from pipeline.plan import Plan

PACKAGES = (
    "xpipe-xai",
    "torch",
    "torchvision",
    "pillow",
    "numpy",
    "scipy",
    "scikit-learn",
    "networkx",
    "ray",
    "zarr",
    "pyarrow",
    "safetensors",
    "statstream",
    "timm",
)
"""Those whose version can change a result, or how it is stored."""
GIT_SECONDS = 10
"""For git to answer; a revision is not worth more."""


def describe(config: RunConfig, plan: Plan) -> dict[str, Any]:
    """Return what environment.json holds: also what run file and plan were when the run began."""
    import torch

    from pipeline.threads import processors

    return {
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "git": revision(config.base),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": processors(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or 0,  # type: ignore[no-untyped-call]
        "packages": versions(),
        "seed": config.seed,
        "threads": plan.threads,
        "digests": {
            "plan": paths.sha256(plan.to_json().encode()),
            "config": config.digest(),
            **_digests(plan),
        },
        "config": config.canonical(),
    }


def provenance(config: RunConfig, plan: Plan, name: str, scan: Scan) -> dict[str, Any]:
    """Return what the result of a scan says of where it comes from.

    It says nothing of when, where and by how many workers it was made: the same scan of the same
    samples gives the same bytes.
    """
    return {
        "scan": name,
        "method": scan.name,
        "entry": config.canonical()["explainers"].get(name, {}),
        "parameters": _parameters(scan),
        "model": config.canonical()["model"],
        "data": config.canonical()["data"],
        "n_samples": plan.n_samples,
        "seed": config.seed,
        "digests": _digests(plan),
        "packages": versions(),
    }


def _parameters(scan: Scan) -> dict[str, Any]:
    """Return all parameters, defaults among them."""
    if not dataclasses.is_dataclass(scan):
        return {}
    names = [each.name for each in dataclasses.fields(scan) if each.init]
    return {name: _plain(getattr(scan, name)) for name in names}


def _digests(plan: Plan) -> dict[str, str]:
    return {
        "run": plan.digest,
        "manifest": plan.manifest_digest,
        "weights": plan.weights_digest,
        "code": plan.code_digest,
    }


def _plain(value: Any) -> Any:
    """Return a parameter as JSON has it: tensors and objects as a short description."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"


def versions() -> dict[str, str]:
    """Return the versions of packages that are installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def revision(folder: Path) -> str:
    """Return the git revision of a folder, with ``modified`` where it differs; empty if none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return ""
    return f"{commit} modified" if _git(folder, "status", "--porcelain") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
