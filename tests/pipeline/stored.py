"""A run's folder as the sinks write it, without a model: for tests of what reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline import paths
from pipeline.data.source import Record
from pipeline.ledger import Entry, Ledger
from pipeline.manifest import Manifest
from pipeline.plan import MapSpec, Pass, Plan
from pipeline.sinks import maps, results, samples, scores, states, tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.shards import Shard

DIMS = ("channel", "height", "width")
SHAPE = (2, 8, 8)
N_SAMPLES = 10
SHARD_SIZE = 4
RUN_FILE = """
name: x
model: {source: python, name: "m:f"}
data: {source: mnist5k}
explainers: {lrp: {}}
"""
FAILED = 5
"""The sample that could not be used."""


def relevance(name: str, n_samples: int = N_SAMPLES) -> np.ndarray:
    """Maps of an explainer, one row of NaN for the failed sample."""
    generator = np.random.default_rng(len(name))
    values = generator.standard_normal((n_samples, *SHAPE)).astype(np.float32)
    values[FAILED] = np.nan
    return values


def make_plan(dtype: str = "float32", *, targets: tuple[str, ...] = ("predicted",)) -> Plan:
    return Plan(
        digest="d" * 64,
        n_samples=N_SAMPLES,
        shard_size=SHARD_SIZE,
        batch_size=2,
        threads=1,
        input_shape=SHAPE,
        n_classes=3,
        targets=targets,
        has_target_dimension=len(targets) > 1,
        passes=(
            Pass("explain", ("lrp", "ig"), ("statistics",)),
            Pass("explain.statistics", ("rde",)),
        ),
        maps={name: MapSpec(DIMS, SHAPE) for name in ("lrp", "ig", "rde")},
        costs={},
        bytes={},
        manifest_digest=make_manifest().digest(),
        weights_digest="",
        code_digest="",
        dtype=dtype,
        channels="keep",
    )


def make_manifest() -> Manifest:
    return Manifest([Record(n, f"digit-{n}", str(n), n % 3) for n in range(N_SAMPLES)])


def make_run(
    root: str,
    *,
    dtype: str = "float32",
    done: Iterable[int] = (0, 1, 2),
    late: Iterable[int] = (),
    evaluated: Iterable[int] = (),
) -> Plan:
    """Write a run of which these shards are done in the passes of maps, late maps and scores."""
    plan = make_plan(dtype)
    folder = paths.Folder(root)
    folder.write(paths.PLAN, plan.to_json().encode())
    with folder.fs.open(folder.at(paths.MANIFEST), "wb") as file:
        import pyarrow.parquet as pq

        pq.write_table(make_manifest().table, file)
    sink = maps.MapSink(root)
    layouts = {name: maps.Layout(DIMS, SHAPE, dtype) for name in ("lrp", "ig", "rde")}
    sink.create({**layouts, "ig/convergence_delta": maps.Layout()}, plan.n_samples, plan.shard_size)
    for index in done:
        explain(root, sink, plan.shards[index])
    for index in late:
        shard = plan.shards[index]
        objects = sink.write("rde", "relevance", shard, relevance("rde")[shard.rows])
        commit(root, "explain.statistics", shard, objects)
    for index in evaluated:
        evaluate(root, plan.shards[index])
    if tuple(done) == (0, 1, 2):
        results.write(root, "statistics", {"mean": torch.arange(3.0)})
    return plan


def explain(root: str, sink: maps.MapSink, shard: Shard) -> None:
    """Write what the first pass writes of a shard, and its record."""
    index = np.arange(shard.start, shard.stop)
    objects = sink.write_coordinates(
        shard, {"sample": index, "target": index % 3, "prediction": index % 3}
    )
    for name in ("lrp", "ig"):
        objects |= sink.write(name, "relevance", shard, relevance(name)[shard.rows])
    objects |= sink.write("ig", "convergence_delta", shard, index / 100)
    facts = {
        "index": index,
        "sample_id": [f"digit-{n}" for n in index],
        "status": ["cannot be decoded" if n == FAILED else "" for n in index],
        "lrp.sum": relevance("lrp")[shard.rows].sum((1, 2, 3)),
    }
    objects |= samples.write(root, "explain", shard.index, facts)
    objects |= tables.write(root, "lrp", shard.index, [{"sample": int(n)} for n in index[:1]])
    state = {"sum": torch.tensor(index.sum()), "rows": torch.ones(2, 3)}
    objects |= states.write(root, "statistics", "all", shard.index, state)
    commit(root, "explain", shard, objects)


def evaluate(root: str, shard: Shard) -> None:
    """Write scores of a shard, and their record."""
    columns = {
        "auc": np.arange(shard.start, shard.stop) / 10,
        "curve": np.arange(3 * len(shard), dtype=np.float64).reshape(-1, 3),
        "steps": np.arange(len(shard)),
    }
    objects = scores.write(root, "flipping", "lrp", shard.index, columns)
    commit(root, "evaluate.flipping", shard, objects, digest="e" * 64)


def commit(
    root: str, pass_name: str, shard: Shard, objects: dict[str, str], digest: str = "d" * 64
) -> bool:
    n_failed = int(shard.start <= FAILED < shard.stop)
    entry = Entry(pass_name, shard.index, digest, objects, n_samples=len(shard), n_failed=n_failed)
    return Ledger(root).commit(entry)
