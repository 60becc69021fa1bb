"""A run's folder with lists and reference heat maps in it, without a model: for tests of pages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.config import dump
from pipeline.data import open_source
from pipeline.manifest import Manifest
from pipeline.plan import Pass
from pipeline.sinks import results
from pipeline.store import Run, open_run
from tests.pipeline.explained import configure
from tests.pipeline.stored import make_plan

if TYPE_CHECKING:
    from pathlib import Path

N_SAMPLES = 11
SIZE = (6, 6)
K = 5
N_REFERENCES = 3
LAYERS = {"conv1": 4, "block.0/conv<2>": 3}
"""Layer to its number of concepts; one of a name that no file and no page can have as it is."""
SILENT = 1
"""A concept that no sample shows."""
SCANS = {
    "relmax": {"method": "relevance_maximization", "layers": "*", "references": N_REFERENCES},
    "activation_maximization": {"layers": "*", "references": N_REFERENCES},
}


def listed_run(
    folder: Path, found: dict[str, dict[Any, Any]] | None = None, **scans: dict[str, Any]
) -> Run:
    """Return a run of eleven pictures whose scans found this, or what `layers` returns."""
    config = configure(folder, explainers={"gradient": {}, **SCANS, **scans})
    root = paths.Folder(config.output.path)
    root.write(paths.RUN_FILE, dump(config).encode())
    manifest = Manifest(open_source(config.data, config.base).records())
    manifest.write(root.at_url(paths.MANIFEST))
    plan = replace(
        make_plan(),
        n_samples=N_SAMPLES,
        input_shape=(3, *SIZE),
        maps={},
        passes=(Pass("explain", (), tuple(SCANS)),),
    )
    root.write(paths.PLAN, plan.to_json().encode())
    if found is None:
        found = {name: layers(seed) for seed, name in enumerate(SCANS)}
    for scan, result in found.items():
        results.write(root.url, scan, result)
    return open_run(root.url)


def layers(seed: int, *, has_references: bool = True) -> dict[str, Any]:
    """Return what a scan finds for the layers."""
    generator = np.random.default_rng(seed)
    return {name: _layer(generator, n, has_references) for name, n in LAYERS.items()}


def _layer(generator: np.random.Generator, n: int, has_references: bool) -> dict[str, Any]:
    best = _lists(generator, np.arange(N_SAMPLES), n)
    best["value"][:, SILENT] = 0
    labels = np.arange(N_SAMPLES) % 3
    found: dict[str, Any] = {
        "sum_normed": best,
        "max": _lists(generator, np.arange(N_SAMPLES), n),
        "per_class": {
            index: {"sum_normed": _lists(generator, np.flatnonzero(labels == index), n)}
            for index in range(3)
        },
    }
    if has_references:
        start = generator.integers(0, 3, (N_REFERENCES, n, 2))
        found["references"] = {
            "sample": best["sample"][:N_REFERENCES],
            "heatmap": generator.uniform(-1, 1, (N_REFERENCES, n, *SIZE)).astype(np.float16),
            "crop": np.concatenate([start, start + 3], axis=-1),
        }
        found["quality"] = {
            "clarity": np.linspace(0, 1, n),
            "polysemanticity": np.linspace(1, 0, n),
            "redundancy": np.float64(0.25),
            "nearest": np.roll(np.arange(n), 1),
        }
    return found


def _lists(generator: np.random.Generator, among: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return lists of these samples; where there are fewer than `K`, their ends are padded."""
    sample = np.full((K, n), -1)
    value = np.full((K, n), np.nan, np.float32)
    kept = min(K, len(among))
    for concept in range(n):
        sample[:kept, concept] = generator.permutation(among)[:kept]
        value[:kept, concept] = -np.sort(-generator.random(kept))
    return {"sample": sample, "value": value, "position": np.zeros_like(sample)}
