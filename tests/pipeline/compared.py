"""Runs with maps and scores as a test wants them, without a model: for tests of what compares."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import paths
from pipeline.aggregate import Judged
from pipeline.data.source import Record
from pipeline.ledger import Entry, Ledger
from pipeline.manifest import Manifest
from pipeline.metrics import build
from pipeline.plan import MapSpec, Pass, Plan
from pipeline.sinks import maps, samples, scores
from pipeline.store import Run, open_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

N = 12
SHAPE = (2, 4, 4)
DIMS = ("channel", "height", "width")
DIGEST = "e" * 64


def some_maps(seed: int, n: int = N) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, *SHAPE)).astype(np.float32)


def make(
    root: Path,
    relevance: Mapping[str, NDArray[np.float32]],
    scored: Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]] | None = None,
    *,
    shard_size: int = N,
    ids: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    predictions: Sequence[int] | None = None,
    targets: tuple[Any, ...] = ("predicted",),
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    done: Sequence[int] | None = None,
    gates: Sequence[Any] = (),
    dtype: str = "float32",
) -> Run:
    """Write a run: maps by explainer, scores by metric, explainer and column, rows as given.

    `ids` number the samples, `done` are the shards that are scored.
    """
    ids = range(len(next(iter(relevance.values())))) if ids is None else ids
    labels = [number % 3 for number in ids] if labels is None else labels
    predictions = labels if predictions is None else predictions
    scored = scored or {}
    manifest = Manifest([Record(k, f"s{i}", "", labels[k]) for k, i in enumerate(ids)])
    plan = _plan(relevance, manifest, shard_size, targets, dtype)
    folder = paths.Folder(root)
    folder.write(paths.PLAN, plan.to_json().encode())
    folder.write(paths.RUN_FILE, _run_file(relevance, scored, gates).encode())
    with folder.fs.open(folder.at(paths.MANIFEST), "wb") as file:
        pq.write_table(manifest.table, file)
    sink = maps.MapSink(folder.url)
    layouts = {
        name: maps.Layout(plan.maps[name].dims, plan.maps[name].shape, dtype) for name in relevance
    }
    sink.create(layouts, plan.n_samples, plan.shard_size)
    for shard in plan.shards:
        index = np.arange(shard.start, shard.stop)
        said = np.asarray(predictions)[shard.rows]
        objects = sink.write_coordinates(
            shard, {"sample": index, "target": said, "prediction": said}
        )
        for name, values in relevance.items():
            objects |= sink.write(name, "relevance", shard, values[shard.rows])
        facts: dict[str, Any] = {
            "index": index,
            "sample_id": manifest.sample_ids[shard.rows],
            "label": np.asarray(labels)[shard.rows],
            "prediction": said,
            "status": ["" for _ in index],
        }
        objects |= samples.write(folder.url, "explain", shard.index, facts)
        _commit(folder, "explain", shard, objects, plan.digest)
    for metric, by_explainer in scored.items():
        judged(metric, tuple(by_explainer), (parameters or {}).get(metric, {})).write(folder)
        for shard in plan.shards:
            if done is not None and shard.index not in done:
                continue
            objects = {}
            for explainer, columns in by_explainer.items():
                rows = {name: np.asarray(values)[shard.rows] for name, values in columns.items()}
                objects |= scores.write(folder.url, metric, explainer, shard.index, rows)
            _commit(folder, f"evaluate.{metric}", shard, objects, DIGEST)
    return open_run(folder.url)


def judged(name: str, explainers: tuple[str, ...], settings: Mapping[str, Any]) -> Judged:
    metric = build(name, settings)
    return Judged(
        name=name,
        method=metric.name,
        parameters=asdict(metric),  # type: ignore[call-overload]
        direction=metric.direction,
        space=metric.space,
        headline=metric.headline,
        explainers=explainers,
        digest=DIGEST,
    )


def _commit(folder: paths.Folder, name: str, shard: Any, objects: Any, digest: str) -> None:
    entry = Entry(name, shard.index, digest, objects, n_samples=len(shard), n_failed=0)
    assert Ledger(folder.url).commit(entry)


def _plan(
    relevance: Mapping[str, NDArray[np.float32]],
    manifest: Manifest,
    shard_size: int,
    targets: tuple[Any, ...],
    dtype: str,
) -> Plan:
    return Plan(
        digest="d" * 64,
        n_samples=len(manifest),
        shard_size=shard_size,
        batch_size=2,
        threads=1,
        input_shape=SHAPE,
        n_classes=3,
        targets=targets,
        has_target_dimension=False,
        passes=(Pass("explain", tuple(relevance)),),
        maps={
            name: MapSpec(DIMS[-values.ndim + 1 :], values.shape[1:])
            for name, values in relevance.items()
        },
        costs={},
        bytes={},
        manifest_digest=manifest.digest(),
        weights_digest="w" * 64,
        code_digest="",
        dtype=dtype,
        channels="keep",
    )


def _run_file(relevance: Any, scored: Any, gates: Sequence[Any]) -> str:
    values = {
        "name": "compared",
        "model": {"source": "python", "name": "m:f"},
        "data": {"source": "mnist5k"},
        "explainers": {name: {} for name in relevance},
        "metrics": {name: {} for name in scored},
        "gates": list(gates),
    }
    return json.dumps(values)
