"""How fast maps reach the disk, and how much of that a writer thread hides behind compute.

Each layout is written as zarr-python writes it (one full-shard assignment, no sync) and as the
map sink does (same bytes, synced, hashed); raw is the uncompressed bytes, synced. Noise does not
compress, so it is the worst case. The compute loop is a small convolution net, forward and
backward, on one thread, sized to the work that a run does per map::

    python -m benchmarks.zarr_writing --repeats 5
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr

from pipeline import paths
from pipeline.shards import Shard, cut
from pipeline.sinks import maps

if TYPE_CHECKING:
    from collections.abc import Callable

DIMS = ("channel", "height", "width")
QUEUE = 2
"""Shards that may wait to be written."""
NOISE = 0.05
"""Of the loop's time: what differs between two runs of the same on an idle machine."""


@dataclass(frozen=True)
class Layout:
    """What is written."""

    shape: tuple[int, int, int]
    dtype: str
    shard_size: int
    n_shards: int


LAYOUTS = {
    "digits float32": Layout((1, 28, 28), "float32", 256, 4),
    "digits float16": Layout((1, 28, 28), "float16", 256, 4),
    "images float32": Layout((3, 224, 224), "float32", 32, 3),
    "images float16": Layout((3, 224, 224), "float16", 32, 3),
    "images float32, channels summed": Layout((1, 224, 224), "float32", 96, 3),
}


def sink_writer(layout: Layout, root: str) -> Callable[[Shard, np.ndarray], object]:
    """Return what writes a shard as a run does."""
    sink = maps.MapSink(root)
    described = maps.Layout(DIMS, layout.shape, layout.dtype)
    sink.create({"lrp": described}, layout.shard_size * layout.n_shards, layout.shard_size)
    return lambda shard, values: sink.write("lrp", "relevance", shard, values)


def zarr_writer(layout: Layout, root: str) -> Callable[[Shard, np.ndarray], object]:
    """Return what writes a shard through zarr-python, in the same layout."""
    sink_writer(layout, root)
    array: Any = zarr.open_array(f"{root}/maps.zarr/lrp/relevance", mode="r+")

    def write(shard: Shard, values: np.ndarray) -> None:
        array[shard.rows] = values

    return write


def raw_writer(layout: Layout, root: str) -> Callable[[Shard, np.ndarray], object]:
    """Return what writes the bytes as they are."""
    folder = paths.Folder(root)
    return lambda shard, values: folder.write(
        str(shard.index), values.astype(layout.dtype).tobytes()
    )


WRITERS = {"zarr-python": zarr_writer, "sink": sink_writer, "raw": raw_writer}


def throughput(layout: Layout, repeats: int) -> dict[str, Any]:
    """Return maps per second of each writer, in turns, and what they cost on disk."""
    values = np.random.default_rng(0).standard_normal((layout.shard_size, *layout.shape))
    values = values.astype(np.float32)
    shards = cut(layout.shard_size * layout.n_shards, layout.shard_size)
    seconds: dict[str, list[float]] = {name: [] for name in WRITERS}
    size = 0
    for turn in range(repeats + 1):
        for name, writer in WRITERS.items():
            root = tempfile.mkdtemp(prefix="xpipe-bench-")
            write = writer(layout, root)
            began = time.perf_counter()
            for shard in shards:
                write(shard, values)
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - began)
            if name == "sink":
                folder = paths.Folder(root)
                size = sum(folder.fs.size(folder.at(each)) for each in folder.files("maps.zarr"))
            shutil.rmtree(root)
    n_maps = layout.shard_size * layout.n_shards
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "maps_per_second": {name: round(n_maps / median) for name, median in medians.items()},
        "sink_over_zarr_python": round(medians["zarr-python"] / medians["sink"], 2),
        "sink_over_raw": round(medians["raw"] / medians["sink"], 2),
        "bytes_per_map": size // n_maps,
    }


def compute(model: torch.nn.Module, batch: torch.Tensor, n_batches: int) -> None:
    """Do the work of one shard."""
    for _ in range(n_batches):
        leaf = batch.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)


def hidden(name: str, layout: Layout, n_batches: int, repeats: int) -> dict[str, Any]:
    """Return the time of a loop without writing, with it, and with it in a thread."""
    torch.manual_seed(0)
    wide = 16
    model = torch.nn.Sequential(
        torch.nn.Conv2d(layout.shape[0], wide, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(wide, wide, 3, padding=1),
    )
    batch = torch.randn(8, *layout.shape)
    values = np.random.default_rng(0).standard_normal((layout.shard_size, *layout.shape))
    values = values.astype(np.float32)
    shards = cut(layout.shard_size * layout.n_shards, layout.shard_size)
    seconds: dict[str, list[float]] = {"without": [], "in line": [], "in a thread": []}
    for turn in range(repeats + 1):
        for way, times in seconds.items():
            root = tempfile.mkdtemp(prefix="xpipe-bench-")
            write = sink_writer(layout, root)
            began = time.perf_counter()
            with _Writer(write if way == "in a thread" else None) as put:
                for shard in shards:
                    compute(model, batch, n_batches)
                    if way == "in a thread":
                        put((shard, values))
                    elif way == "in line":
                        write(shard, values)
            if turn:
                times.append(time.perf_counter() - began)
            shutil.rmtree(root)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    cost = medians["in line"] - medians["without"]
    return {
        "layout": name,
        "seconds": {way: round(median, 3) for way, median in medians.items()},
        "in_line_over_without": round(medians["in line"] / medians["without"], 3),
        "in_a_thread_over_without": round(medians["in a thread"] / medians["without"], 3),
        # no share of next to nothing, which other work on the machine would decide
        "share_hidden": None
        if cost < NOISE * medians["without"]
        else round((medians["in line"] - medians["in a thread"]) / cost, 3),
    }


class _Writer:
    """A thread that writes what is put, as a worker has one; a with block waits for the last."""

    def __init__(self, write: Callable[[Shard, np.ndarray], object] | None) -> None:
        self._queue: queue.Queue[tuple[Shard, np.ndarray] | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, args=(write,)) if write else None

    def _run(self, write: Callable[[Shard, np.ndarray], object]) -> None:
        while (item := self._queue.get()) is not None:
            write(*item)

    def __enter__(self) -> Callable[[tuple[Shard, np.ndarray]], None]:
        if self._thread:
            self._thread.start()
        return self._queue.put

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._queue.put(None)
            self._thread.join()


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    report = {
        "threads": 1,
        "repeats": repeats,
        "writing": {name: throughput(layout, repeats) for name, layout in LAYOUTS.items()},
        "hiding": [
            hidden("digits float32", LAYOUTS["digits float32"], 40, repeats),
            hidden("images float32", LAYOUTS["images float32"], 4, repeats),
        ],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
