"""Where a run was made: versions, machine, source revision, seeds and digests."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipeline import paths

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import RunConfig
    from pipeline.plan import Plan

PACKAGES = (
    "xpipe-xai",
    "torch",
    "torchvision",
    "numpy",
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

    return {
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "git": revision(config.base),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda or "",
        "packages": versions(),
        "seed": config.seed,
        "threads": plan.threads,
        "digests": {
            "run": plan.digest,
            "plan": paths.sha256(plan.to_json().encode()),
            "config": config.digest(),
            "manifest": plan.manifest_digest,
            "weights": plan.weights_digest,
            "code": plan.code_digest,
        },
        "config": config.canonical(),
    }


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
