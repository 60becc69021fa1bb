"""A small explained run, maps and all, made without the engine: for tests of what judges runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from explainers import Samples, Target, Trace
from pipeline import paths
from pipeline.config import RunConfig, dump, load
from pipeline.data import open_source, read_batch
from pipeline.ledger import Entry, Ledger
from pipeline.planner import Planned, make_plan
from pipeline.sinks import maps, results, samples
from pipeline.store import Run, open_run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data import Source

SOURCES = """
import torch
from torch import nn


class Images(torch.utils.data.Dataset):
    labels = [index % 3 for index in range(11)]
    classes = ["ant & co", "<b>bee</b>", "cat"]

    def __len__(self):
        return 11

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, 6, 6, generator=generator) + self.labels[index] / 2
        if index == 5:
            image[0, 0, 0] = torch.nan
        return image, self.labels[index]


def images():
    return Images()


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )
"""
FAILED = 5
"""The sample that is NaN."""
METRICS = {"sparseness": {}, "pixel_flipping": {"n_steps": 4}}


def configure(folder: Path, **fields: object) -> RunConfig:
    """Return the configuration of the run, with its run file written."""
    (folder / "sources.py").write_text(SOURCES)
    values = {
        "name": "small",
        "model": {"source": "python", "name": "sources.py:model"},
        "data": {"source": "python", "function": "sources.py:images"},
        "explainers": {"gradient": {}, "saliency": {}},
        "metrics": METRICS,
        "output": {"path": str(folder / "run"), "shard_size": 4},
        "engine": {"kind": "serial", "batch_size": 2},
        **fields,
    }
    (folder / "run.yaml").write_text(json.dumps(values))
    return load(folder / "run.yaml")


def explained(folder: Path, done: tuple[int, ...] = (0, 1, 2), **fields: object) -> Run:
    """Return a run of which these shards are explained."""
    config = configure(folder, **fields)
    planned = make_plan(config)
    source = open_source(config.data, config.base)
    root = paths.Folder(config.output.path)
    root.write(paths.RUN_FILE, dump(config).encode())
    planned.plan.write(root.at(paths.PLAN))
    planned.manifest.write(root.at(paths.MANIFEST))
    root.write(paths.ENVIRONMENT, json.dumps({"versions": {"torch": "2"}}).encode())
    sink = maps.MapSink(root.url)
    layouts = {
        name: maps.Layout(spec.dims, spec.shape, planned.plan.dtype)
        for name, spec in planned.plan.maps.items()
    }
    sink.create(layouts, planned.plan.n_samples, planned.plan.shard_size)
    for index in done:
        _explain(root, sink, planned, source, index)
    shape = (3, *planned.plan.input_shape)
    statistics = {"mean": torch.rand(shape[1:]), "factor": torch.randn(shape)}
    results.write(root.url, "statistics", statistics)
    return open_run(root.url)


def _explain(
    root: paths.Folder, sink: maps.MapSink, planned: Planned, source: Source, index: int
) -> None:
    shard = planned.plan.shards[index]
    records = planned.manifest.slice(shard.start, shard.stop)
    inputs, good, failures = read_batch(source, records, planned.plan.input_shape)
    numbers = torch.arange(shard.start, shard.stop)
    labels = torch.tensor([record.label for record in records])
    trace = Trace(planned.network, inputs, samples=Samples(numbers[good], labels[good]))
    prediction = np.full(len(shard), -1)
    prediction[good] = trace.prediction.numpy()
    coordinates = {"sample": numbers.numpy(), "target": prediction, "prediction": prediction}
    objects = sink.write_coordinates(shard, coordinates)
    for name in planned.plan.maps:
        values = np.full((len(shard), *planned.plan.input_shape), np.nan, np.float32)
        values[good] = planned.explainers[name].relevance(trace, Target.parse("predicted")).numpy()
        objects |= sink.write(name, "relevance", shard, values)
    facts = {
        "index": numbers.numpy(),
        "sample_id": [record.sample_id for record in records],
        "label": labels.numpy(),
        "prediction": prediction,
        "status": [
            f"<i>{failures[row]}</i>" if row in failures else "" for row in range(len(shard))
        ],
    }
    objects |= samples.write(root.url, "explain", index, facts)
    entry = Entry(
        "explain",
        index,
        planned.plan.digest,
        objects,
        started=1e9 + 2 * index,
        seconds=3.0,
        worker=f"worker-{index % 2}",
        n_samples=len(shard),
        n_failed=len(failures),
    )
    assert Ledger(root.url).commit(entry)
