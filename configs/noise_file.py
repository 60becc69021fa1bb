"""Statistics of one run as noise for another: `python -m configs.noise_file RUN FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline import open_run

KEPT = ("mean", "variance", "factor", "covariance")
"""What rate_distortion's `noise: {file: ...}` reads."""


def write(folder: str | Path, file: str | Path) -> Path:
    """Write the moments that a run has found, and return the file.

    Parameters
    ----------
    folder
        Of the run; its first scan `moments` counts.
    file
        A ``.safetensors`` file, which is written over.

    Raises
    ------
    LookupError
        If the run has found none.
    """
    for result in open_run(folder).scans.values():
        if {"mean", "variance"} <= set(result):
            values = {name: np.asarray(result[name]) for name in KEPT if name in result}
            tensors = {name: torch.from_numpy(value.copy()) for name, value in values.items()}
            save_file(tensors, Path(file))
            return Path(file)
    raise LookupError(
        f"the run {str(folder)!r} has no results of the scan moments; finish it first"
    )


if __name__ == "__main__":
    write(*sys.argv[1:])
