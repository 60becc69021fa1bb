from __future__ import annotations

import errno
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import explainers
from explainers import Attribution, Cost, Explained
from pipeline.errors import PlanError
from pipeline.ledger import Ledger
from pipeline.store import open_run
from pipeline.task import Outcome, WorkItem
from pipeline.verify import verify
from pipeline.worker import ExplainTask, ExplainWorker
from tests.pipeline.tiny_run import EXPLAINERS, config_of, run_tiny, stored

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.drills import Seen

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Hungry(Attribution):
    """Needs more memory than there is for batches of more than `most`."""

    most: int = 2

    @property
    def cost(self) -> Cost:
        return Cost()

    def relevance(self, trace: Any, target: Any) -> torch.Tensor:
        if len(trace.inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return trace.gradient(target)


@dataclass(frozen=True)
class Talkative(Attribution):
    """Finds arrays, facts and tables beside its map."""

    @property
    def cost(self) -> Cost:
        return Cost()

    def relevance(self, trace: Any, target: Any) -> Explained:
        inputs = trace.inputs
        index = trace.samples.index
        return Explained(
            inputs,
            arrays={
                "standard_error": inputs * 2,
                "delta": index.double(),
                "curve": inputs[:, 0, 0],
            },
            tables={
                "nodes": [{"row": row, "node": int(index[row])} for row in range(len(inputs))],
                "": [{"row": row, "members": [row] * (row + 1)} for row in range(len(inputs))],
            },
        )


@dataclass(frozen=True)
class Broken(Attribution):
    """Fails in the shard that holds sample 9."""

    @property
    def cost(self) -> Cost:
        return Cost()

    def relevance(self, trace: Any, target: Any) -> torch.Tensor:
        if 9 in trace.samples.index:
            raise ZeroDivisionError("sample 9")
        return trace.inputs


@dataclass(frozen=True)
class Dice(Attribution):
    """Draws its relevance."""

    stochastic = True

    @property
    def cost(self) -> Cost:
        return Cost()

    def relevance(self, trace: Any, target: Any) -> torch.Tensor:
        return trace.noise("dice", trace.inputs.shape[1:])


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    explainers.methods.names()
    for kind in (Hungry, Talkative, Broken, Dice):
        name = kind.__name__.lower()
        monkeypatch.setattr(kind, "name", name)
        monkeypatch.setitem(explainers.methods._things, name, kind)


def worker_of(folder: Path, **changes: Any) -> tuple[ExplainWorker, str]:
    """Return a worker of a run of which nothing is done."""
    from pipeline.planner import make_plan
    from pipeline.products import coordinates, layouts
    from pipeline.run import _settle_folder
    from pipeline.sinks.maps import MapSink

    config = config_of(folder, **changes)
    planned = make_plan(config)
    path = folder / "out"
    plan = _settle_folder(path, config, planned)
    sink = MapSink(path)
    sink.create(
        layouts(plan, list(plan.maps)),
        plan.n_samples,
        plan.shard_size,
        coordinates=coordinates(plan),
    )
    attributions = {
        name: each for name, each in planned.explainers.items() if isinstance(each, Attribution)
    }
    task = ExplainTask(str(path), config, plan, "explain", attributions)
    return task.open("here"), str(path)


def settled(found: Outcome | Future[Outcome]) -> Outcome:
    return found.result() if isinstance(found, Future) else found


def test_a_batch_goes_through_the_network_once_for_all_explainers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {
        "saliency": {},
        "gradient": {},
        "input_x_gradient": {},
        "statistics": EXPLAINERS["statistics"],
    }
    worker, _ = worker_of(tmp_path, explainers=kinds)
    sizes: list[int] = []
    forward = explainers.Network.run

    def counted(self: Any, inputs: torch.Tensor, **given: Any) -> Any:
        sizes.append(len(inputs))
        return forward(self, inputs, **given)

    monkeypatch.setattr(explainers.Network, "run", counted)
    assert settled(worker(WorkItem("explain", 0))).status == "committed"
    worker.close()
    assert sizes == [4, 4]


def test_maps_are_those_of_the_library(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    run = open_run(str(tmp_path / "out"))
    from pipeline.data import open_source
    from pipeline.models import load_model

    source = open_source(run.config.data, run.config.base)
    inputs = torch.stack([source.load(record) for record in run.manifest])
    model = load_model(run.config.model, run.config.base)
    expected = explainers.explain(model, "saliency", inputs)
    found = torch.from_numpy(run.maps["saliency"].values)
    # batches of 4 against one of 40: float32 kernels differ
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    table = run.samples().to_pydict()
    assert table["prediction"] == model(inputs).argmax(1).tolist()
    np.testing.assert_allclose(table["logit"], model(inputs).amax(1).detach(), rtol=1e-5)
    np.testing.assert_allclose(table["saliency.sum"], found.double().sum((1, 2, 3)), rtol=1e-6)
    assert "ig.convergence_delta" in table
    assert set(table["status"]) == {""}


def test_the_statistics_are_those_of_all_samples(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    run = open_run(str(tmp_path / "out"))
    from pipeline.data import open_source

    source = open_source(run.config.data, run.config.base)
    inputs = torch.stack([source.load(record) for record in run.manifest]).double().numpy()
    found = run.scans["statistics"]
    assert int(found["count"]) == 40
    np.testing.assert_allclose(found["mean"], inputs.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["variance"], inputs.var(0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_only_rounding(tmp_path: Path, batch_size: int) -> None:
    output = {"shard_size": 40}
    run_tiny(tmp_path / "a", output=output)
    run_tiny(tmp_path / "b", output=output, engine={"batch_size": batch_size})
    one, other = (open_run(str(tmp_path / name / "out")) for name in "ab")
    for name in ("saliency", "ig"):
        expected, found = one.maps[name].values, other.maps[name].values
        # float32: kernels differ between batch sizes
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    for name in ("mean", "variance"):
        np.testing.assert_allclose(
            other.scans["statistics"][name], one.scans["statistics"][name], rtol=1e-9
        )


@pytest.mark.drill(5)
def test_out_of_memory_halves_the_batch_and_keeps_it(tmp_path: Path, drill: Seen) -> None:
    kinds = {"hungry": {"most": 2}}
    summary = run_tiny(tmp_path / "a", explainers=kinds, engine={"batch_size": 8})
    assert summary.exit_code == 0
    entries = Ledger(str(tmp_path / "a" / "out")).entries("explain")
    assert [entry.batch_size for entry in entries.values()] == [2] * 5
    assert [entry.attempt for entry in entries.values()] == [1] * 5
    run_tiny(tmp_path / "b", explainers=kinds, engine={"batch_size": 2})
    assert stored(tmp_path / "a" / "out") == stored(tmp_path / "b" / "out")
    drill(
        f"exit {summary.exit_code}",
        f"batches of {[one.batch_size for one in entries.values()]}, not 8",
    )
    found, expected = stored(tmp_path / "a" / "out"), stored(tmp_path / "b" / "out")
    n_other = sum(found[name] != expected[name] for name in expected)
    drill(f"{n_other} of {len(expected)} objects differ from those of batches of 2")


def test_a_batch_of_one_that_does_not_fit_is_the_shards_error(tmp_path: Path) -> None:
    worker, _ = worker_of(tmp_path, explainers={"hungry": {"most": 0}})
    outcome = settled(worker(WorkItem("explain", 0)))
    worker.close()
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.type == "torch.OutOfMemoryError"
    assert not outcome.error.is_fatal


@pytest.mark.drill(4)
def test_an_error_names_the_samples_of_its_batch(tmp_path: Path, drill: Seen) -> None:
    summary = run_tiny(tmp_path, explainers={"broken": {}, "saliency": {}})
    assert summary.exit_code == 5
    assert summary.quarantined == (("explain", 1),)
    from tests.pipeline.tiny_run import events

    (event,) = events(tmp_path / "out", "shard_quarantined")
    assert event["error"]["type"] == "ZeroDivisionError"
    assert event["error"]["sample_ids"] == ["image_8", "image_9", "image_10", "image_11"]
    assert event["attempt"] == 3
    run = open_run(str(tmp_path / "out"))
    assert np.isnan(run.maps["saliency"].values[8:16]).all()
    assert np.isfinite(run.maps["saliency"].values[16:]).all()
    drill.run(tmp_path / "out", summary.exit_code)
    drill(event["error"]["type"], event["error"]["message"], event["error"]["sample_ids"])


@pytest.mark.drill(12)
def test_bad_samples_are_named_kept_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, drill: Seen
) -> None:
    bad = {"3": "nan", "12": "size", "13": "truncated"}
    data = {"source": "python", "function": "tiny.py:images", "params": {"bad": bad}}
    summary = run_tiny(tmp_path, data=data, metrics={"pixel_flipping": {}})
    assert (summary.exit_code, summary.n_failed) == (5, 3)
    run = open_run(str(tmp_path / "out"))
    reasons = dict(run.failures())
    assert sorted(reasons) == ["image_12", "image_13", "image_3"]
    assert reasons["image_3"] == "1 of 64 values are NaN or infinite"
    # the run reads them in two passes, for a metric and for the report
    told = [record.getMessage() for record in caplog.records if "left out" in record.msg]
    assert sorted(told) == [f"sample left out: {name}: {reasons[name]}" for name in sorted(reasons)]
    assert "shape" in reasons["image_12"]
    assert "truncated" in reasons["image_13"]
    values = run.maps["saliency"].values
    missing = np.isnan(values).all(axis=(1, 2, 3))
    assert np.flatnonzero(missing).tolist() == [3, 12, 13]
    assert np.isfinite(values[~missing]).all()
    assert int(run.scans["statistics"]["count"]) == 37
    assert run.maps["saliency"].prediction.values[3] == -1
    drill(f"exit {summary.exit_code}", reasons["image_3"])
    drill(f"{int(run.scans['statistics']['count'])} of 40 samples are in the statistics")


@pytest.mark.drill(13)
def test_weights_that_are_not_the_plans_are_refused(tmp_path: Path, drill: Seen) -> None:
    worker, _ = worker_of(tmp_path)
    worker.close()
    other = replace(worker._task.plan, digest="d" * 64, weights_digest="e" * 64)
    with pytest.raises(
        PlanError, match=f"{worker._task.plan.weights_digest[:12]}.*eeeeee"
    ) as caught:
        replace(worker._task, plan=other).open("here")
    drill(caught.value.what)


def test_a_shard_of_bad_samples_is_a_shard(tmp_path: Path) -> None:
    bad = {str(index): "nan" for index in range(8, 16)}
    data = {"source": "python", "function": "tiny.py:images", "params": {"bad": bad}}
    summary = run_tiny(tmp_path, data=data)
    assert (summary.exit_code, summary.n_failed, summary.quarantined) == (5, 8, ())
    run = open_run(str(tmp_path / "out"))
    assert int(run.scans["statistics"]["count"]) == 32
    assert len(run.samples()) == 40


def test_what_a_method_finds_beside_its_map_is_stored(tmp_path: Path) -> None:
    run_tiny(tmp_path, explainers={"talkative": {}})
    run = open_run(str(tmp_path / "out"))
    relevance = run.maps["talkative"].values
    error = run.array("talkative", "standard_error")
    assert error.dims == ("sample", "channel", "height", "width")
    np.testing.assert_array_equal(error.values, 2 * relevance)
    np.testing.assert_array_equal(run.array("talkative", "curve").values, relevance[:, 0, 0])
    assert run.samples().to_pydict()["talkative.delta"] == list(range(40))
    table = run.table("talkative.nodes").to_pydict()
    assert table["sample"] == table["node"] == list(range(40))


def test_the_one_table_of_a_method_has_its_name(tmp_path: Path) -> None:
    run_tiny(tmp_path, explainers={"talkative": {}})
    out = tmp_path / "out"
    assert (out / "tables" / "talkative" / "0.parquet").is_file()
    run = open_run(str(out))
    table = run.table("talkative").to_pydict()
    assert table["sample"] == list(range(40))
    # batches of four
    assert table["members"] == [[row] * (row + 1) for row in range(4)] * 10
    assert verify(out) == []


def test_several_targets_add_a_dimension(tmp_path: Path) -> None:
    run_tiny(tmp_path, target=["predicted", "label", {"weights": [1.0, -1.0, 0.0]}])
    run = open_run(str(tmp_path / "out"))
    maps = run.maps["saliency"]
    assert maps.dims == ("sample", "target", "channel", "height", "width")
    target = maps.target.values
    np.testing.assert_array_equal(target[:, 0], maps.prediction.values)
    np.testing.assert_array_equal(target[:, 1], run.manifest.labels)
    assert set(target[:, 2]) == {-1}
    assert "ig.convergence_delta.2" in run.samples().column_names


def test_channels_can_be_summed_and_maps_halved(tmp_path: Path) -> None:
    run_tiny(tmp_path / "a")
    run_tiny(tmp_path / "b", output={"channels": "sum", "dtype": "float16"})
    full = open_run(str(tmp_path / "a" / "out")).maps["ig"]
    summed = open_run(str(tmp_path / "b" / "out")).maps["ig"]
    assert summed.dims == ("sample", "height", "width")
    expected = full.values.sum(1)
    # float16 keeps eleven bits
    assert np.abs(summed.values - expected).max() <= 2**-11 * np.abs(expected).max()


def test_randomness_depends_on_the_sample_and_the_entry_only(tmp_path: Path) -> None:
    kinds = {"one": {"method": "dice"}, "two": {"method": "dice"}}
    run_tiny(tmp_path / "a", explainers=kinds)
    run_tiny(tmp_path / "b", explainers=kinds, engine={"batch_size": 3}, output={"shard_size": 5})
    first, second = (open_run(str(tmp_path / name / "out")).maps for name in "ab")
    np.testing.assert_array_equal(first["one"].values, second["one"].values)
    assert not np.array_equal(first["one"].values, first["two"].values)


@pytest.mark.drill(15)
def test_of_two_writers_of_a_shard_the_first_wins_and_bytes_stay(
    tmp_path: Path, drill: Seen
) -> None:
    worker, path = worker_of(tmp_path)
    orphan = worker._task.open("orphan")
    item = WorkItem("explain", 2)
    assert settled(worker(item)).status == "committed"
    before = stored(tmp_path / "out")
    entry = Ledger(path).entry("explain", 2)
    assert entry is not None
    # the orphan had looked at the ledger before
    orphan._ledger.entry = lambda *_: None  # type: ignore[method-assign]
    second = settled(orphan(WorkItem("explain", 2, epoch=0)))
    assert second.status == "skipped"
    assert settled(worker(item)).status == "skipped"
    assert Ledger(path).entry("explain", 2) == entry
    assert stored(tmp_path / "out") == before
    worker.close()
    orphan.close()
    drill(f"the second writer has {second.status} the shard; it is {entry.worker!r}'s")


def test_a_full_disk_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, path = worker_of(tmp_path)

    def full(*_: Any) -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker._sink, "write", full)
    outcome = settled(worker(WorkItem("explain", 0)))
    worker.close()
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.is_fatal
    assert Ledger(path).entry("explain", 0) is None
