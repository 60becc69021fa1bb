"""Stored maps are scored shard by shard, once, as the library would score them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import aggregate
from pipeline.data import open_source, read_batch
from pipeline.entries import build_metrics
from pipeline.errors import ConfigError, PlanError
from pipeline.evaluate import evaluate
from pipeline.metrics import Metric, available, build, score, scores
from pipeline.networks import network_of
from pipeline.run import run as run_config
from pipeline.store import open_run
from tests.pipeline.explained import FAILED, METRICS, configure, explained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from explainers import Network
    from pipeline.store import Run

GOOD = [index for index in range(11) if index != FAILED]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = explained(tmp_path_factory.mktemp("explained"))
    source = open_source(run.config.data, run.config.base)
    # as long as somebody holds the network, evaluations do not read the model again
    network = network_of(run.config, run.plan, source, run.manifest)
    yield run
    del network


@pytest.fixture
def run(template: Run, tmp_path: Path) -> Run:
    """An explained run that nobody has judged."""
    return open_run(shutil.copytree(template.path, tmp_path / "copy"))


def memory(run: Run) -> tuple[Network, torch.Tensor]:
    """Return the network of a run and its good inputs."""
    source = open_source(run.config.data, run.config.base)
    inputs, good, _ = read_batch(source, run.manifest.slice(0, 11), run.plan.input_shape)
    assert good == GOOD
    return network_of(run.config, run.plan, source, run.manifest), inputs


def test_stored_scores_are_those_of_the_library(run: Run) -> None:
    summary = evaluate(run)
    assert (summary.exit_code, summary.n_scored, summary.n_samples) == (5, 6, 11)
    network, inputs = memory(run)
    for name in ("gradient", "saliency"):
        relevance = torch.from_numpy(run.maps[name].values[GOOD])
        for metric, params in METRICS.items():
            expected = scores(metric, network, inputs, None, relevance, **params)
            stored = run.scores(metric, name)
            assert stored.keys() == expected.keys()
            for column, values in expected.items():
                np.testing.assert_allclose(stored[column][GOOD], values, rtol=1e-5, atol=1e-6)
                assert np.isnan(stored[column][FAILED]).all()


def test_scores_are_not_computed_twice(run: Run) -> None:
    evaluate(run, ["sparseness"])
    records = run.ledger.entries("evaluate.sparseness")
    assert evaluate(str(run.path), ["sparseness"]).n_scored == 0
    assert run.ledger.entries("evaluate.sparseness") == records


def test_only_shards_that_are_lost_are_scored_again_and_alike(run: Run) -> None:
    evaluate(run)
    before = run.scores("pixel_flipping", "gradient")
    objects = run.ledger.entries("evaluate.pixel_flipping")[1].objects
    run.ledger.withdraw("evaluate.pixel_flipping", 1)
    assert evaluate(run).n_scored == 1
    assert run.ledger.entries("evaluate.pixel_flipping")[1].objects == objects
    for column, values in run.scores("pixel_flipping", "gradient").items():
        np.testing.assert_array_equal(values, before[column])


def test_parameters_that_do_not_fit_are_refused_and_scores_kept(run: Run) -> None:
    evaluate(run, ["pixel_flipping"])
    before = run.ledger.entries("evaluate.pixel_flipping")
    given = {"pixel_flipping": {"baseline": "white"}, "infidelity": {"square": 40}}
    with pytest.raises(PlanError, match="metric 'infidelity', square: got squares of 40 pixels"):
        evaluate(run, given)
    assert run.ledger.entries("evaluate.pixel_flipping") == before
    assert [metric.name for metric in aggregate.judged(run)] == ["pixel_flipping"]


def test_other_parameters_replace_the_scores(run: Run) -> None:
    evaluate(run)
    assert evaluate(run, {"pixel_flipping": {"n_steps": 3}}).n_scored == 3
    assert run.scores("pixel_flipping", "gradient")["curve"].shape == (11, 4)
    assert [metric.name for metric in aggregate.judged(run)] == ["sparseness", "pixel_flipping"]


def test_a_name_alone_means_the_entry_of_the_run_file(run: Run) -> None:
    evaluate(run, ["pixel_flipping"])
    assert run.scores("pixel_flipping", "gradient")["curve"].shape == (11, 5)


def test_one_metric_can_be_scored_under_several_names(run: Run) -> None:
    gini = {"method": "sparseness", "channels": "each"}
    entries = {"gini": gini, "sparseness": {"compat": "quantus"}}
    rows = evaluate(run, entries).aggregates
    assert {row.metric for row in rows} == {"gini", "sparseness"}
    ours, quantus = (run.scores(name, "gradient")["sparseness"] for name in entries)
    np.testing.assert_allclose(ours, quantus, atol=1e-4)
    assert (ours != quantus).any()


def test_only_committed_shards_are_scored(run: Run) -> None:
    run.ledger.withdraw("explain", 1)
    summary = evaluate(run, ["sparseness"])
    assert (summary.n_shards, summary.n_samples) == (2, 7)
    assert sorted(run.ledger.entries("evaluate.sparseness")) == [0, 2]
    assert np.isnan(run.scores("sparseness", "gradient")["sparseness"][4:8]).all()


def test_a_run_without_maps_has_no_scores(run: Run) -> None:
    for shard in range(3):
        run.ledger.withdraw("explain", shard)
    assert evaluate(run).aggregates == ()


def test_metrics_that_read_maps_alone_read_no_inputs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.scorer.read_batch", _refuse)
    monkeypatch.setattr("pipeline.scorer.network_of", _refuse)
    assert evaluate(run, ["sparseness"]).n_scored == 3


def _refuse(*_: Any) -> None:
    raise AssertionError("was read")


def test_other_weights_than_the_runs_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.networks._in_use", {})
    plan = replace(run.plan, weights_digest="e" * 64)
    run.folder.write("plan.json", plan.to_json().encode())
    with pytest.raises(PlanError, match="expected eeeeee"):
        evaluate(open_run(run.path), ["pixel_flipping"])


def test_a_batch_is_prepared_once_for_all_explainers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(build("pixel_flipping", {}))
    prepared: list[Any] = []
    original = kind.prepare

    def prepare(self: Metric, case: Any) -> Any:
        prepared.append(case)
        return original(self, case)

    monkeypatch.setattr(kind, "prepare", prepare)
    evaluate(run, ["pixel_flipping"])
    assert len(prepared) == 6  # batches of two in shards of 4, 4 and 3 samples


@pytest.mark.slow
def test_every_target_of_a_run_is_scored(tmp_path: Path) -> None:
    config = configure(tmp_path, target=["predicted", "runner_up"])
    assert run_config(config).exit_code == 5  # one sample is NaN
    run = open_run(config.output.path)
    columns = run.scores("pixel_flipping", "gradient")
    assert list(columns) == ["curve", "auc", "curve.1", "auc.1"]
    network, inputs = memory(run)
    for position, suffix in enumerate(("", ".1")):
        relevance = torch.from_numpy(run.maps["gradient"].values[GOOD, position])
        target = network(inputs).argsort(dim=1, descending=True)[:, position]
        expected = score("pixel_flipping", network, inputs, target, relevance, n_steps=4)
        np.testing.assert_allclose(columns[f"curve{suffix}"][GOOD], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["sparsness"], "did you mean 'sparseness'"),
        ({"pixel_flipping": {"n_stps": 3}}, "did you mean 'n_steps'"),
        ({"pixel_flipping": {"n_steps": 0}}, "at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_done(
    run: Run, metrics: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(run, metrics)
    assert run.ledger.passes() == ("explain",)


def test_aggregates_are_written_and_say_which_end_is_better(run: Run) -> None:
    evaluate(run)
    table = pq.read_table(f"{run.path}/aggregates.parquet").to_pylist()
    row = next(
        row
        for row in table
        if (row["metric"], row["explainer"], row["column"], row["group"])
        == ("pixel_flipping", "saliency", "auc", "all")
    )
    values = run.scores("pixel_flipping", "saliency")["auc"][GOOD]
    assert (row["n"], row["n_undefined"]) == (10, 1)
    assert (row["direction"], row["space"]) == ("lower", "probability")
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(values.std(ddof=1))
    assert row["median"] == pytest.approx(np.median(values))
    half = 2.2622 * values.std(ddof=1) / np.sqrt(10)  # Student's t with 9 degrees of freedom
    assert row["high"] - row["mean"] == pytest.approx(half, rel=1e-3)
    groups = {row["group"] for row in table}
    assert groups >= {"all", "macro", "class:0", "class:1", "class:2", "correct", "misclassified"}


def test_summaries_leave_out_what_is_undefined() -> None:
    summary = aggregate.summarise(np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]]))
    assert summary.n.tolist() == [2, 0]
    assert summary.n_undefined.tolist() == [1, 3]
    assert summary.mean[0] == 1.5
    assert np.isnan([summary.mean[1], summary.median[1], summary.low[1]]).all()


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (5, 2.571), (6, 2.447), (10, 2.228), (30, 2.042), (1000, 1.962)],
)
def test_quantiles_of_student_are_those_of_the_table(degrees: int, quantile: float) -> None:
    assert float(aggregate.student_t(np.array(degrees))) == pytest.approx(quantile, abs=2e-3)


def test_the_library_scores_a_plain_module() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    inputs = torch.randn(4, 6)
    curve = score("pixel_flipping", model, inputs, 1, inputs, n_steps=3)
    assert curve.shape == (4, 4)
    torch.testing.assert_close(curve[:, 0], model(inputs).softmax(1)[:, 1].detach())
    assert score("sparseness", None, inputs, None, inputs).shape == (4,)
    with pytest.raises(ValueError, match="got no model"):
        score("pixel_flipping", None, inputs, None, inputs)
    with pytest.raises(ValueError, match="expected one map each"):
        score("sparseness", None, inputs, None, inputs[:2])
    with pytest.raises(ConfigError, match="compat"):
        score("sparseness", None, inputs, None, inputs, compat="captum")


def test_every_metric_says_what_it_is() -> None:
    rows = {row["name"]: row for row in available()}
    assert {"sparseness", "pixel_flipping"} <= set(rows)
    for row in rows.values():
        assert row["direction"] in ("higher", "lower")
        assert row["space"] in ("logit", "probability", "none")
        assert row["summary"].endswith(".")
        assert row["family"]


def test_an_opened_run_and_its_folder_are_evaluated_alike(run: Run) -> None:
    first = evaluate(run, ["sparseness"]).aggregates
    assert repr(evaluate(open_run(run.path), ["sparseness"]).aggregates) == repr(first)


def test_an_entry_names_whose_maps_it_scores(tmp_path: Path) -> None:
    run = explained(tmp_path, metrics={"sparseness": {"explainers": ["saliency"]}})
    found = evaluate(run)
    assert {row.explainer for row in found.aggregates} == {"saliency"}
    assert not run.scores("sparseness", "gradient")
    again = evaluate(run, {"sparseness": {"explainers": ["gradient", "saliency"]}})
    assert again.n_scored == len(run.plan.shards)
    with pytest.raises(ConfigError, match="did you mean 'saliency'"):
        evaluate(run, {"sparseness": {"explainers": ["salience"]}})
    with pytest.raises(ConfigError, match="expected a list of explainers"):
        build_metrics(configure(tmp_path, metrics={"sparseness": {"explainers": "saliency"}}))
