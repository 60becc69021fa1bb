"""What the spectral analysis of 50,000 maps of 28 x 28 takes: CPU seconds by stage, and memory.

Maps are made up: a blob that wanders about a place of the class, with noise, and one class of
which a fifth looks at a corner. They are written as a run writes them; the analysis then runs in a
process of its own, from the stored maps to the stored result (pool, project, link, decompose,
cluster), classes and the global view, so that its peak memory counts nothing else. Nothing is
checked: that is the model's time. The bounds are 60 CPU seconds and 2 GB::

    python -m benchmarks.spray --maps 50000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.data.source import Record
from pipeline.evaluate import evaluate
from pipeline.ledger import Entry, Ledger
from pipeline.manifest import Manifest
from pipeline.plan import EXPLAIN, MapSpec, Pass, Plan
from pipeline.sinks import maps, samples
from pipeline.spray import analysis as analyses
from pipeline.spray import stage
from pipeline.store import open_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.shards import Shard

SIDE = 28
SHARD_SIZE = 500
N_CLASSES = 10
TAGGED = 7
"""The class of which a fifth looks at a corner."""
MOST_SECONDS, MOST_BYTES = 60.0, 2e9
DIMS = ("channel", "height", "width")
RUN_FILE = """
name: spray
model: {source: python, name: "nothing.py:model"}
data: {source: mnist5k}
explainers: {lrp: {}}
spray: {lrp: {n_checked: 0}}
engine: {kind: serial}
"""


def made(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and maps of a shard."""
    generator = np.random.default_rng(shard.start)
    classes = (np.arange(shard.start, shard.stop) % N_CLASSES).astype(np.int64)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij"))
    centres = np.random.default_rng(0).uniform(-0.5, 0.5, (N_CLASSES, 2))[classes]
    centres = centres + generator.uniform(-0.3, 0.3, centres.shape)
    values = np.exp(-((grid - centres[:, :, None, None]) ** 2).sum(axis=1) / 0.08)
    values *= 1 + 0.5 * generator.standard_normal((len(shard), SIDE, SIDE))
    values += 0.05 * generator.standard_normal((len(shard), SIDE, SIDE))
    tagged = (classes == TAGGED) & (generator.random(len(shard)) < 0.2)
    values[tagged] *= 0.2
    values[tagged, 1:5, 1:5] += 2.0
    return classes, values[:, None].astype(np.float32)


def write(path: str, n_maps: int) -> None:
    """Write a run of so many maps."""
    manifest = Manifest([Record(n, f"{n}", f"{n}", n % N_CLASSES) for n in range(n_maps)])
    spec = MapSpec(DIMS, (1, SIDE, SIDE))
    plan = Plan(
        digest="d" * 64,
        n_samples=n_maps,
        shard_size=SHARD_SIZE,
        batch_size=64,
        threads=1,
        input_shape=spec.shape,
        n_classes=N_CLASSES,
        targets=("predicted",),
        has_target_dimension=False,
        passes=(Pass(EXPLAIN, ("lrp",)),),
        maps={"lrp": spec},
        costs={},
        bytes={},
        manifest_digest=manifest.digest(),
        weights_digest="",
        code_digest="",
        dtype="float32",
        channels="keep",
    )
    folder = paths.Folder(path)
    folder.write(paths.RUN_FILE, RUN_FILE.encode())
    folder.write(paths.PLAN, plan.to_json().encode())
    manifest.write(folder.at_url(paths.MANIFEST))
    sink = maps.MapSink(path)
    sink.create({"lrp": maps.Layout(DIMS, spec.shape, "float32")}, n_maps, SHARD_SIZE)
    for shard in plan.shards:
        classes, values = made(shard)
        index = np.arange(shard.start, shard.stop)
        objects = sink.write("lrp", "relevance", shard, values)
        coordinates = {"sample": index, "target": classes, "prediction": classes}
        objects |= sink.write_coordinates(shard, coordinates)
        facts: dict[str, Any] = {
            "index": index,
            "sample_id": [f"{n}" for n in index],
            "label": classes,
            "prediction": classes,
            "status": [""] * len(shard),
        }
        objects |= samples.write(path, EXPLAIN, shard.index, facts)
        entry = Entry(EXPLAIN, shard.index, plan.digest, objects, n_samples=len(shard))
        Ledger(path).commit(entry)


def timed(seconds: dict[str, float], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that also counts its CPU seconds."""

    def counted(*given: Any, **named: Any) -> Any:
        before = time.process_time()
        try:
            return call(*given, **named)
        finally:
            seconds[name] += time.process_time() - before

    return counted


def analyse(path: str) -> dict[str, Any]:
    """Analyse the run's maps, and return what it took and found."""
    seconds: dict[str, float] = defaultdict(float)
    for name in ("projected", "graph", "eigenpairs", "partition", "described"):
        setattr(analyses, name, timed(seconds, name, getattr(analyses, name)))
    stage._Stage._pool = timed(seconds, "pool", stage._Stage._pool)  # type: ignore[method-assign]
    before = time.process_time()
    evaluation = evaluate(path)
    seconds["all"] = time.process_time() - before
    views = open_run(path).spray["lrp"].views
    return {
        "seconds": dict(seconds),
        "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "exit_code": evaluation.exit_code,
        "second eigenvalues": {name: float(each.eigenvalues[1]) for name, each in views.items()},
        "tagged": [cluster.size for cluster in views[f"class:{TAGGED}"].clusters],
    }


def main() -> int:
    """Print what it takes; 1 if it is too much."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--maps", type=int, default=50_000)
    parser.add_argument("--analyse", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.analyse:
        print(json.dumps(analyse(given.analyse)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "run")
        write(path, given.maps)
        command = [sys.executable, "-m", "benchmarks.spray", "--analyse", path]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(child.stdout.splitlines()[-1])
    for name, took in found["seconds"].items():
        print(f"{name:>12}: {took:6.2f} CPU s")
    print(f"peak memory: {found['bytes'] / 1e9:.2f} GB, the imports included")
    for name, value in found["second eigenvalues"].items():
        print(f"{name:>12}: second eigenvalue {value:.4f}")
    print(f"clusters of the class with the corner: {found['tagged']}")
    return int(found["seconds"]["all"] > MOST_SECONDS or found["bytes"] > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
