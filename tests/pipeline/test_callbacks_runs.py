"""A run tells trackers, each read back by its own library; who fails does not end the run."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

import pipeline.callbacks
from pipeline import timings
from pipeline.callbacks import listeners
from pipeline.evaluate import evaluate
from pipeline.store import open_run
from tests.pipeline.tiny_run import events, run_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.run import RunSummary

pytestmark = pytest.mark.slow

GRUMPY = '''
from dataclasses import dataclass

from pipeline.callbacks import Listener, register


@register("grumpy")
@dataclass(frozen=True)
class Grumpy(Listener):
    """Refuses to open, or raises at the first event."""

    opens: bool = True

    def open(self, config, path):
        if not self.opens:
            raise PermissionError("not today")
        return self

    def __call__(self, event):
        raise ConnectionError("the server is gone")

    def close(self):
        raise ConnectionError("still gone")
'''

BAD = {"source": "python", "function": "tiny.py:images", "params": {"bad": {"3": "nan"}}}


@pytest.fixture(scope="module")
def grumpy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A listener in a file of its own, as another distribution would bring one."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "grumpy_listener.py").write_text(GRUMPY)
    sys.path.insert(0, str(folder))
    listeners.names()
    __import__("grumpy_listener")
    yield
    sys.path.remove(str(folder))
    del sys.modules["grumpy_listener"], listeners._things["grumpy"]


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, grumpy: None
) -> Iterator[tuple[Path, RunSummary]]:
    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        # the stores in files that need no server; MLflow asks to be asked for its own
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        asked = {
            "mlflow": {"tracking_uri": f"file://{folder}/mlflow", "tags": {"team": "x"}},
            "wandb": {"mode": "offline", "folder": str(folder)},
            "tensorboard": {"samples": 2, "every": 0.0},
            "grumpy": {},
            "sulky": {"method": "grumpy", "opens": False},
        }
        yield folder, run_tiny(folder, data=BAD, metrics={"sparseness": {}}, callbacks=asked)


@pytest.fixture
def means(told: tuple[Path, RunSummary]) -> dict[str, float]:
    """The scores as the run's own table has them."""
    rows = pq.read_table(told[0] / "out" / "aggregates.parquet").to_pylist()
    return {
        f"scores/{row['metric']}/{row['explainer']}/{row['column']}": row["mean"]
        for row in rows
        if row["group"] == "all" and row["step"] == -1
    }


def test_the_run_is_done_whoever_fails(told: tuple[Path, RunSummary]) -> None:
    _, summary = told
    assert (summary.exit_code, summary.n_done, summary.n_failed) == (5, 40, 1)


def test_mlflow_has_parameters_figures_scores_and_the_page(
    told: tuple[Path, RunSummary], means: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=f"file://{told[0]}/mlflow")
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["explainers.ig.n_steps"] == "4"
    assert found.data.tags["xpipe.digest"] == open_run(told[0] / "out").plan.digest
    assert found.data.tags["team"] == "x"
    assert len(means) >= 2
    assert {name: found.data.metrics[name] for name in means} == pytest.approx(means)
    assert found.data.metrics["explain/samples"] == 40
    assert found.data.metrics["explain/samples_failed"] == 1
    assert [each.path for each in client.list_artifacts(found.info.run_id)] == ["report.html"]


def test_tensorboard_has_figures_and_maps(
    told: tuple[Path, RunSummary], means: dict[str, float]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(told[0] / "out" / "tensorboard" / "tiny-1"))
    found.Reload()
    samples = [(each.step, each.value) for each in found.Scalars("explain/samples")]
    # after each shard, and at the end of the pass
    assert samples == [(8, 8), (16, 16), (24, 24), (32, 32), (40, 40), (40, 40)]
    shown = {name: found.Scalars(name)[0].value for name in means}
    assert shown == pytest.approx(means, rel=1e-6)  # kept as float32
    names = {name.rsplit("/", 1)[0] for name in found.Tags()["images"]}
    assert {"maps/ig", "maps/saliency"} <= names | set(found.Tags()["images"])


def test_maps_are_shown_as_they_are_stored(told: tuple[Path, RunSummary]) -> None:
    from pipeline.callbacks.tensorboard import pictures

    path = told[0] / "out"
    shown = dict(pictures(str(path), 2))["ig"]
    assert shown.shape == (2, 8, 8, 3)
    summed = open_run(path).maps["ig"][:2].sum("channel").to_numpy()
    # red where there is evidence for, blue where there is against
    assert ((shown[..., 0] > shown[..., 2])[summed > 0.02 * abs(summed).max()]).all()
    assert ((shown[..., 0] < shown[..., 2])[summed < -0.02 * abs(summed).max()]).all()


def test_wandb_has_figures_and_scores(
    told: tuple[Path, RunSummary], means: dict[str, float]
) -> None:
    (folder,) = (told[0] / "wandb").glob("offline-run-*")
    rows, summary = wandb_records(next(folder.glob("*.wandb")))
    assert [row["explain/samples"] for row in rows if "explain/samples" in row][-1] == 40
    assert {name: summary[name] for name in means} == pytest.approx(means)
    assert summary["exit_code"] == 5
    kept = {path.name for path in (folder / "files").iterdir()}
    assert not kept & {"requirements.txt", "wandb-metadata.json", "output.log", "diff.patch"}


def wandb_records(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows and the last summary of a file of W&B."""
    from wandb.proto import wandb_internal_pb2

    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for content in logged(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("history"):
            rows.append(values_of(record.history.item))
        summary |= values_of(record.summary.update)
    return rows, summary


def logged(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in the format of LevelDB's log, which W&B writes.

    Blocks of 32 KiB; in them parts of records, each after its checksum (4 bytes), its length (2)
    and its kind (1): 1 is a whole record, 2, 3 and 4 are the first, a middle and the last part.
    The file itself has a header of 7 bytes, which count as the first block's.
    """
    block, position, record = 1 << 15, 7, b""
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        position += 7
        record += content[position : position + length]
        position += length
        if kind in (1, 4):
            yield record
            record = b""


def values_of(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_what_workers_say_is_among_the_events(told: tuple[Path, RunSummary]) -> None:
    (said,) = events(told[0] / "out", "worker_logged")
    assert (said["pass_name"], said["shard"], said["attempt"]) == ("explain", 0, 1)
    assert (said["level"], said["logger"]) == ("WARNING", "pipeline.worker")
    assert "image_3" in said["message"]


def test_timings_are_the_ledgers_records(told: tuple[Path, RunSummary]) -> None:
    path = told[0] / "out"
    table = pq.read_table(path / timings.FILE)
    assert table.schema.remove_metadata() == timings.SCHEMA
    files = [file for file in (path / "ledger").rglob("*.json") if file.stem.isdecimal()]
    records = [json.loads(file.read_text()) for file in files]
    assert table.num_rows == len(records) == 15
    found = {(row["pass"], row["shard"]): row for row in table.to_pylist()}
    for record in records:
        row = found[record["pass_name"], record["shard"]]
        phases = {name: row[f"{name}_seconds"] for name in ("read", "compute", "write")}
        known = {name: seconds for name, seconds in phases.items() if seconds is not None}
        assert known == record["phases"]
        assert sum(known.values()) <= row["seconds"]
        is_explained = not row["pass"].startswith("evaluate.")
        assert set(known) == (set(phases) if is_explained else set())
        for name in set(timings.SCHEMA.names) & set(record) - {"started"}:
            assert row[name] == record[name], name
        assert row["started"].timestamp() == pytest.approx(record["started"], abs=1e-6)
    assert [row["pass"] for row in table.to_pylist()[:5]] == ["explain"] * 5


def test_an_evaluation_of_its_own_is_told_too(told: tuple[Path, RunSummary]) -> None:
    path = told[0] / "out"
    (path / timings.FILE).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        evaluate(path, {"complexity": {}})
    passes = set(pq.read_table(path / timings.FILE)["pass"].to_pylist())
    assert "evaluate.complexity" in passes
    assert (path / "tensorboard" / "tiny-0").is_dir()


def test_the_packages_of_listeners_are_discovered() -> None:
    folder = Path(pipeline.callbacks.__path__[0])
    for name in ("mlflow", "wandb", "tensorboard", "opentelemetry"):
        assert (folder / f"{name}.py").is_file()
        assert name in listeners
