"""Pictures of the samples that a run's lists name: each is read once, and kept beside the pages."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.atlas import tiles
from pipeline.data import read_batch
from pipeline.inputs import ALONE, is_one_picture, parts_of
from pipeline.report import naming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.data.source import Source
    from pipeline.store import Run

BLOCK = 32
"""Samples read at a time."""

Pixels = "NDArray[np.uint8]"


@dataclass(frozen=True)
class Pictures:
    """Pictures of some samples."""

    whole: NDArray[np.uint8]
    """``(sample, height, width, 3)``."""
    small: NDArray[np.uint8]
    """Fitted into tiles, ``(sample, side, side, 3)``."""
    place: NDArray[np.int64]
    """Row of each sample of the run; -1 for those that are not here."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.whole.shape[1], self.whole.shape[2]

    @property
    def side(self) -> int:
        """Side of a tile."""
        return int(self.small.shape[1])


@contextmanager
def read(run: Run, indices: NDArray[np.int64]) -> Iterator[Pictures | None]:
    """Give the pictures of samples, for the time of a with block; None if there can be none.

    They are kept in a temporary file, which the system caches as far as there is memory.
    """
    size = _size(run)
    source = naming.source_of(run) if size is not None else None
    if size is None or source is None:
        yield None
        return
    side = tiles.side_of(size)
    with tempfile.TemporaryDirectory() as folder:
        n = max(1, len(indices))
        whole = np.memmap(f"{folder}/whole", np.uint8, "w+", shape=(n, *size, 3))
        small = np.memmap(f"{folder}/small", np.uint8, "w+", shape=(n, side, side, 3))
        place = np.full(run.plan.n_samples, -1, np.int64)
        for start in range(0, len(indices), BLOCK):
            block = indices[start : start + BLOCK]
            good, pixels = _pixels(run, source, block)
            rows = start + good
            whole[rows], place[block[good]] = pixels, rows
            small[rows] = tiles.fitted(pixels, side)
        yield Pictures(whole, small, place)


def predictions(run: Run) -> NDArray[np.int64]:
    """Return what the network took each sample for; -1 where that is not known."""
    found = np.full(run.plan.n_samples, -1, np.int64)
    rows = run.samples()
    if rows.num_rows:
        found[rows["index"].to_numpy()] = rows["prediction"].to_numpy()
    return found


def _size(run: Run) -> tuple[int, int] | None:
    """Return height and width of an input; None if it is no picture."""
    if not is_one_picture(run.plan.form):
        return None
    shape = run.plan.form[ALONE].shape
    return (shape[-2], shape[-1]) if len(shape) in (2, 3) else None


def _pixels(
    run: Run, source: Source, block: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return which samples of a block can be read, and what they show."""
    records = [run.manifest.slice(int(row), int(row) + 1)[0] for row in block]
    batch, good, _ = read_batch(source, records, run.plan.form)
    if not good:
        return np.empty(0, np.int64), np.empty((0, *(_size(run) or ()), 3), np.uint8)
    return np.array(good, np.int64), _coloured(source.display(parts_of(batch)[ALONE]))


def _coloured(shown: Tensor) -> NDArray[np.uint8]:
    """Return inputs in [0, 1] as pixels; channels that are no colours are averaged."""
    values = shown.float().nan_to_num().clamp(0, 1)
    stack = values[:, None] if values.ndim == 3 else values
    stack = stack if stack.shape[1] in (1, 3) else stack.mean(dim=1, keepdim=True)
    pixels: NDArray[np.uint8] = (stack * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))
