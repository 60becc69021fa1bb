"""How much a run takes, and how it is cut: cost, bytes, batch size and shard size."""

from __future__ import annotations

import math
import operator
import time
from typing import TYPE_CHECKING

import psutil
import torch

from explainers import Attribution, Target, Trace, explaining
from pipeline import lengths
from pipeline.acceleration import gpus
from pipeline.inputs import mapped, n_rows, to_model
from pipeline.plan import MapSpec, map_name
from pipeline.threads import computing_threads, processors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers import Explainer, Network
    from pipeline.inputs import Inputs
    from pipeline.planning.trial import Trial

MAX_SHARD = 256
"""Samples of a shard that nobody asked for: a shard that is lost is at most this much work."""

MIN_SHARDS = 64
"""Shards that a large data set is cut into, so that many workers end together. It does not depend
on the number of workers: a fold's rounding depends on the shards."""

MIN_BATCHES = 8
"""Batches that a small data set is cut into, for the same reason."""

BATCH_SIZES = (16, 32, 64, 128, 256)
_SLACK = 1.15
"""A smaller batch within this of the fastest is taken: it needs less memory and cache."""
_SECONDS = 3.0
"""For all batch sizes that are tried; networks that are too slow for it fill any batch."""
_REPEATS = 3


def map_specs(
    found: Mapping[str, Explainer],
    network: Network,
    channels: str,
    shortest: Network | None = None,
) -> dict[str, MapSpec]:
    """Return the form of every attribution's maps; `shortest` is for the shortest samples."""
    return {
        map_name(name, part): _map_spec(form, channels, explainer.source_layer or "")
        for name, explainer in found.items()
        if isinstance(explainer, Attribution)
        for part, form in _forms(explainer, network, shortest).items()
    }


def costs(
    found: Mapping[str, Explainer], network: Network, n_samples: int, n_targets: int
) -> dict[str, dict[str, float | None]]:
    """Return passes per sample and in all; a scan sees each sample once, whatever the targets.

    None where they depend on the sample.
    """
    table = {}
    for name, explainer in found.items():
        times = n_targets if explainer.kind == "attribution" else 1
        cost = explaining.cost(explainer, network)
        forward = cost.shared + (cost.forward - cost.shared) * times
        passes = {
            "forward": forward,
            "backward": cost.backward * times,
            "steps": cost.steps * times,
            "forwards": forward * n_samples,
            "backwards": cost.backward * times * n_samples,
        }
        table[name] = {key: None if math.isnan(n) else n for key, n in passes.items()}
    return table


def stored_bytes(
    maps: Mapping[str, MapSpec],
    trials: Mapping[str, Trial],
    network: Network,
    *,
    beside: int,
    n_samples: int,
    n_targets: int,
    n_shards: int,
    dtype: str,
) -> dict[str, int]:
    """Return what is stored before compression.

    `trials` are those of scans; `beside` are the bytes, of a sample and target, of what methods
    store beside maps: standard errors are as large as these.
    """
    itemsize = 2 if dtype == "float16" else 4
    values = sum(math.prod(spec.shape) for spec in maps.values())
    table = {
        "maps": values * n_targets * n_samples * itemsize,
        "arrays": beside * n_targets * n_samples,
        "states": 0,
    }
    for trial in trials.values():
        told = trial.scan.stored_bytes(network, n_samples, n_shards)
        for kind, size in {"states": _bytes(trial) * n_shards, **told}.items():
            table[kind] = table.get(kind, 0) + size
        table["arrays"] += trial.records * n_samples
    return table | {"total": sum(table.values())}


def _bytes(trial: Trial) -> int:
    return sum(value.nbytes for state in trial.states.values() for value in state.values())


def batch_size(
    network: Network, example: Inputs, n_samples: int, threads: int, share: float = 1.0
) -> int:
    """Return the smallest batch that is about as fast per sample as any, by trying a few.

    What is tried is one forward and backward pass, which stands for all methods. `share` is that
    of a worker in its GPU.
    """
    memory = gpus.memory(network.device, share) or worker_memory()
    limit = max(1, min(-(-n_samples // MIN_BATCHES), _rows_in(memory, network, example)))
    sizes = [size for size in BATCH_SIZES if size <= limit]
    if len(sizes) < 2:
        return sizes[0] if sizes else limit
    seconds: dict[int, float] = {}
    with computing_threads(threads):
        started = time.perf_counter()
        one_pass(network, example)
        row = one_pass(network, example) / n_rows(example)
        for size in sizes:
            left = _SECONDS - (time.perf_counter() - started)
            if _REPEATS * size * row > left:
                break
            inputs = repeated(example, size)
            seconds[size] = min(one_pass(network, inputs) for _ in range(_REPEATS)) / size
            if seconds[size] > _SLACK * min(seconds.values()):
                break
            row = seconds[size]
    if not seconds:
        return sizes[0]
    fastest = min(seconds.values())
    return next(size for size, each in seconds.items() if each <= _SLACK * fastest)


def shard_size(
    maps: Mapping[str, MapSpec], n_samples: int, n_targets: int, batch: int, beside: int = 0
) -> int:
    """Return the samples per shard: whole batches, many shards, maps that fit in memory.

    `beside` are the bytes of what is stored beside maps, of a sample and target.
    """
    wanted = -(-n_samples // MIN_SHARDS)
    size = min(-(-wanted // batch) * batch, max(MAX_SHARD // batch * batch, batch))
    values = sum(math.prod(spec.shape) for spec in maps.values())
    row = n_targets * (4 * values + beside)
    fitting = worker_memory() // 4 // max(row, 1)
    if size > fitting:
        size = max(fitting // batch * batch, min(batch, fitting), 1)
    return min(size, max(n_samples, 1))


def worker_memory() -> int:
    """Return the bytes of memory per processor: what a worker can count on."""
    return int(psutil.virtual_memory().total) // processors()


def repeated(example: Inputs, size: int) -> Inputs:
    """Return so many rows of an example."""
    return mapped(operator.itemgetter(torch.arange(size) % n_rows(example)), example)


def one_pass(network: Network, inputs: Inputs) -> float:
    """Return the seconds of a forward pass, and of a backward pass where inputs are numbers."""
    inputs = to_model(inputs, network.device, network.dtype)
    # processor time does not see the neighbours on a shared machine; a GPU has no such clock
    clock = time.perf_counter if network.device.type == "cuda" else time.process_time
    started = clock()
    trace = Trace(network, inputs)
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        trace.gradient(Target.parse("predicted"))
    else:
        trace.output  # noqa: B018 - a lazy value
    wait(network)
    return clock() - started


def wait(network: Network) -> None:
    """Return when the device is done."""
    if network.device.type == "cuda":
        torch.cuda.synchronize()


def _forms(
    attribution: Attribution, network: Network, shortest: Network | None
) -> Mapping[str, explaining.Form]:
    """Return names and sizes of the axes of maps, by part."""
    found = explaining.form(attribution, network)
    if shortest is None:
        return found
    other = explaining.form(attribution, shortest)
    shapes = zip(network.input_shapes.values(), shortest.input_shapes.values(), strict=True)
    ends = {(long[0], short[0]) for long, short in shapes if long != short}
    return {
        part: (lengths.axes(form, other[part][1], ends), form[1]) for part, form in found.items()
    }


def _map_spec(form: tuple[tuple[str, ...], tuple[int, ...]], channels: str, layer: str) -> MapSpec:
    dims, shape = form
    sizes = {
        name: size
        for name, size in zip(dims, shape, strict=True)
        if not (channels == "sum" and name == "channel")
    }
    return MapSpec(tuple(sizes), tuple(sizes.values()), layer)


def guessed_batch(network: Network, example: Inputs, n_samples: int, share: float) -> int:
    """Return the batch for a GPU that is not here: the largest that is tried and will fit.

    Large batches are what a GPU is fast with; one that does not fit after all is halved by the
    worker. Memory is taken to be that of the smallest GPUs of data centres.
    """
    rows = _rows_in(int(share * gpus.LEAST_MEMORY), network, example)
    limit = max(1, min(-(-n_samples // MIN_BATCHES), rows))
    return max((size for size in BATCH_SIZES if size <= limit), default=limit)


def _rows_in(memory: int, network: Network, example: Inputs) -> int:
    """Return the rows whose values, and as much again for gradients, fit a quarter of memory."""
    if not network.is_program:
        return BATCH_SIZES[-1]
    inputs = to_model(example, network.device, network.dtype)
    values = Trace(network, inputs).values.values()
    row = sum(value.nbytes for value in values) // n_rows(example)
    return max(1, memory // 4 // max(2 * row, 1))
