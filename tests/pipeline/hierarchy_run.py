"""Runs with hierarchies as the sinks write them: pictures and sentences, without the method."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.config import dump, load
from pipeline.data import open_source
from pipeline.ledger import Entry, Ledger
from pipeline.manifest import Manifest
from pipeline.plan import MapSpec, Pass, Plan
from pipeline.sinks import maps, samples, tables
from pipeline.store import Run, open_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SOURCES = """
import torch


class Items:
    labels = [0, 1, 0]
    ids = ["first", "<second>", "third"]
    classes = ["cat & co", "dog"]

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return 3

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        if len(self.size) == 1:
            return torch.randint(0, 9, self.size, generator=generator), self.labels[index]
        return torch.rand(1, *self.size, generator=generator), self.labels[index]


def items(size):
    return Items(size)
"""
METHOD = "agglomerative_contextual_decomposition"
PREDICTIONS = (0, 0, 0)
"""The second is wrong."""
NODES: list[dict[str, Any]] = [
    {"node": 0, "parent": 3, "level": 0, "members": [1], "scores": [1.0, -1.0]},
    {"node": 1, "parent": 3, "level": 1, "members": [2], "scores": [0.5, 0.0]},
    {"node": 2, "parent": 4, "level": 0, "members": [5], "scores": [-2.0, 3.0]},
    {"node": 3, "parent": 4, "level": 1, "members": [1, 2], "scores": [2.0, -1.5]},
    {"node": 4, "parent": -1, "level": 2, "members": [1, 2, 5], "scores": [1.25, 0.75]},
]
"""Two cells that grow together, one of the other sign, and their union; six cells or more."""
GROWN = ({1: 0, 5: 2}, {1: 3, 2: 3, 5: 2}, {1: 4, 2: 4, 5: 4})
"""Cell to node at each level."""


def make_run(
    folder: Path,
    size: tuple[int, ...],
    grid: tuple[int, ...],
    nodes: Sequence[Mapping[str, Any]] = NODES,
    names: Sequence[str] = ("acd",),
    **of_explainer: Any,
) -> Run:
    """Return a run of three samples, each with the same hierarchy.

    Parameters
    ----------
    folder
        Where it is written.
    size
        Of the inputs: height and width of pictures, or a number of tokens.
    grid
        Of the cells.
    nodes
        Rows of the table, without their sample.
    names
        Of the explainers, all with the same hierarchies.
    of_explainer
        Parameters of each.
    """
    (folder / "sources.py").write_text(SOURCES)
    values = {
        "name": "hierarchies",
        "model": {"source": "python", "name": "sources.py:items"},
        "data": {"source": "python", "function": "sources.py:items", "params": {"size": size}},
        "explainers": {name: {"method": METHOD, **of_explainer} for name in names},
        "output": {"path": str(folder / "run")},
    }
    (folder / "run.yaml").write_text(json.dumps(values))
    config = load(folder / "run.yaml")
    manifest = Manifest(open_source(config.data, config.base).records())
    dims = ("token",) if len(size) == 1 else ("height", "width")
    plan = _plan(manifest, size, dims, names)
    root = paths.Folder(config.output.path)
    root.write(paths.RUN_FILE, dump(config).encode())
    plan.write(root.at(paths.PLAN))
    manifest.write(root.at(paths.MANIFEST))
    _commit(root, plan, _explain(root, plan, grid, nodes))
    return open_run(root.url)


def _plan(
    manifest: Manifest, size: tuple[int, ...], dims: tuple[str, ...], names: Sequence[str]
) -> Plan:
    return Plan(
        digest="d" * 64,
        n_samples=3,
        shard_size=3,
        batch_size=3,
        threads=1,
        input_shape=size if len(size) == 1 else (1, *size),
        n_classes=2,
        targets=("predicted",),
        has_target_dimension=False,
        passes=(Pass("explain", tuple(names), ()),),
        maps={name: MapSpec(dims, size) for name in names},
        costs={},
        bytes={},
        manifest_digest=manifest.digest(),
        weights_digest="",
        code_digest="",
        dtype="float32",
        channels="keep",
    )


def _explain(
    root: paths.Folder, plan: Plan, grid: tuple[int, ...], nodes: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    sink, shard = maps.MapSink(root.url), plan.shards[0]
    layouts = {n: maps.Layout(each.dims, each.shape) for n, each in plan.maps.items()}
    sink.create(layouts, plan.n_samples, plan.shard_size)
    index, predicted = np.arange(3), np.array(PREDICTIONS)
    objects = sink.write_coordinates(
        shard, {"sample": index, "target": predicted, "prediction": predicted}
    )
    components = np.full((3, len(GROWN), int(np.prod(grid))), -1)
    for level, cells in enumerate(GROWN):
        components[:, level, list(cells)] = list(cells.values())
    axes = ("level", "token") if len(grid) == 1 else ("level", "row", "column")
    layout = maps.Layout(axes, (len(GROWN), *grid), "int64")
    rows = [{"sample": sample, **node} for sample in range(3) for node in nodes]
    for name, spec in plan.maps.items():
        objects |= sink.write(name, maps.RELEVANCE, shard, np.ones((3, *spec.shape), np.float32))
        sink.add(name, "components", layout, plan.n_samples, plan.shard_size)
        stored = components.reshape(3, len(GROWN), *grid)
        objects |= sink.write(name, "components", shard, stored)
        objects |= tables.write(root.url, name, 0, rows)
    sink.consolidate()
    facts: dict[str, Any] = {
        "index": index,
        "sample_id": ["first", "<second>", "third"],
        "label": np.array([0, 1, 0]),
        "prediction": predicted,
        "status": [""] * 3,
    }
    return objects | samples.write(root.url, "explain", 0, facts)


def _commit(root: paths.Folder, plan: Plan, objects: dict[str, str]) -> None:
    entry = Entry("explain", 0, plan.digest, objects, n_samples=3, n_failed=0)
    assert Ledger(root.url).commit(entry)
