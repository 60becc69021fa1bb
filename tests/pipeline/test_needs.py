"""Explainers that need the result of a scan: it runs first, and its result reaches the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import explainers
from explainers import Samples, Target, Trace, explaining
from pipeline.data import open_source, read_batch
from pipeline.entries import build_explainers, needs_of
from pipeline.errors import ConfigError
from pipeline.networks import network_of
from pipeline.planner import make_plan
from pipeline.run import resume
from pipeline.store import open_run
from tests.pipeline.tiny_run import committed, config_of, run_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store import Run

ENTRIES: dict[str, dict[str, Any]] = {
    "expected_gradients": {},
    "deep_lift_shap": {},
    "pattern_net": {},
    "pattern_attribution": {},
    "smooth": {
        "method": "smooth_grad",
        "attribution": "expected_gradients",
        "n_samples": 2,
        "parameters": {"background": "few", "n_samples": 2},
    },
    "few": {"method": "background", "n_samples": 3},
    "without": {"method": "feature_ablation", "features": {"grid": 4}, "baseline": "data_mean"},
    "drawn": {"method": "feature_ablation", "features": {"grid": 4}, "background": "few"},
    "saliency": {},
}


def expected(run: Run) -> dict[str, torch.Tensor]:
    """Return what the library finds with the scans' results, in batches as the run's."""
    config, plan = run.config, run.plan
    source = open_source(config.data, config.base)
    network = network_of(config, plan, source, run.manifest)
    inputs, rows, _ = read_batch(source, run.manifest.slice(0, plan.n_samples), plan.form)
    assert isinstance(inputs, torch.Tensor)
    samples = Samples(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))
    loader = [(part, None) for part in inputs.split(4)]
    patterns = explainers.scan(network, "patterns", loader)
    few = explainers.scan(network, "background", loader, n_samples=3)
    moments = explainers.scan(network, "moments", loader)
    grid = {"grid": 4}
    given: dict[str, dict[str, Any]] = {
        "expected_gradients": {"background": few},
        "deep_lift_shap": {"background": few},
        "pattern_net": {"patterns": patterns},
        "pattern_attribution": {"patterns": patterns},
        "smooth": {
            "attribution": "expected_gradients",
            "n_samples": 2,
            "parameters": {"background": few, "n_samples": 2},
        },
        "without": {"features": grid, "baseline": "data_mean", "statistics": moments},
        "drawn": {"features": grid, "background": few},
    }
    methods = {name: entry["method"] for name, entry in ENTRIES.items() if "method" in entry}
    trace = Trace(network, inputs, samples=samples, seed=config.seed)
    found = {}
    for name, parameters in given.items():
        built = explainers.build(methods.get(name, name), **parameters)
        assert isinstance(built, explainers.Attribution)
        target = Target.parse("predicted")
        found[name] = explaining.explained(built, trace.named(name), target).relevance
    return found


def needed(folder: Path, **entries: dict[str, Any]) -> dict[str, dict[str, str]]:
    return needs_of(config_of(folder, explainers=entries))


def test_a_scan_is_needed_only_where_parameters_ask_for_its_result(tmp_path: Path) -> None:
    for method in ("feature_ablation", "integrated_gradients", "deep_lift"):
        assert needed(tmp_path, a={"method": method}) == {}
        wanted = {"a": {"statistics": "moments"}}
        assert needed(tmp_path, a={"method": method, "baseline": "data_mean"}) == wanted
    asked = {"a": {"method": "feature_ablation", "background": "background"}}
    assert needed(tmp_path, **asked) == {"a": {"background": "background"}}
    assert list(build_explainers(config_of(tmp_path, explainers=asked))) == ["a", "background"]
    named = {"a": {"method": "feature_ablation", "background": "few"}}
    few = {"method": "background", "n_samples": 3}
    assert needed(tmp_path, **named, few=few) == {"a": {"background": "few"}}
    stated = {"a": {"method": "deep_lift", "baseline": "data_mean", "statistics": "s"}}
    scans = {"s": {"method": "moments"}, "moments": {}}
    assert needed(tmp_path, **stated, **scans) == {"a": {"statistics": "s"}}


def test_a_method_around_another_needs_what_that_one_does(tmp_path: Path) -> None:
    inner = {"attribution": "integrated_gradients", "parameters": {"baseline": "data_mean"}}
    found = needed(tmp_path, smooth_grad=inner)
    assert found == {"smooth_grad": {"parameters.statistics": "moments"}}
    assert needed(tmp_path, smooth_grad={"attribution": "integrated_gradients"}) == {}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"background": "few"}, "explainers.a.background: got 'few', expected an entry"),
        ({"background": "background", "baseline": 0.0}, "explainers.a.background: feature_abl"),
        ({"baseline": {"soft": 1}}, "explainers.a.baseline"),
        ({"baseline": "data_meen"}, "explainers.a.baseline: got 'data_meen'.*'data_mean'"),
    ],
)
def test_what_stands_for_absence_is_refused_at_its_line(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    config = config_of(tmp_path, explainers={"a": {"method": "feature_ablation", **entry}})
    with pytest.raises(ConfigError, match=said):
        build_explainers(config)


def test_scans_that_are_needed_are_added_and_run_first(tmp_path: Path) -> None:
    planned = make_plan(config_of(tmp_path, explainers=ENTRIES), measure=True)
    first, *later = planned.plan.passes
    assert first.attributions == ("saliency",)
    assert set(first.scans) == {"few", "moments", "patterns"}
    assert {each.name: set(each.attributions) for each in later} == {
        "explain.few": {"expected_gradients", "deep_lift_shap", "smooth", "drawn"},
        "explain.moments": {"without"},
        "explain.patterns": {"pattern_net", "pattern_attribution"},
    }
    assert planned.plan.needs["smooth"] == {"parameters.background": "few"}
    assert planned.plan.seconds is not None


@pytest.mark.slow
def test_results_reach_the_workers_and_a_resumed_run_too(tmp_path: Path) -> None:
    run_tiny(tmp_path, explainers=ENTRIES)
    run = open_run(tmp_path / "out")
    wanted = expected(run)
    before = {}
    for name, relevance in wanted.items():
        before[name] = run.maps[name].values
        # batches of four against one of forty
        scale = float(relevance.abs().max())
        np.testing.assert_allclose(before[name], relevance, rtol=0, atol=1e-5 * scale)
    lost = {"explain.few": 1, "explain.patterns": 3}
    for pass_name, shard in lost.items():
        run.ledger.withdraw(pass_name, shard)
    n_before = len(committed(tmp_path / "out"))
    resume(tmp_path / "out")
    assert committed(tmp_path / "out")[n_before:] == list(lost.items())
    for name, values in before.items():
        np.testing.assert_array_equal(run.maps[name].values, values)


@pytest.mark.ray
def test_results_reach_the_workers_of_ray(tmp_path: Path) -> None:
    run_tiny(tmp_path / "ray", explainers=ENTRIES, engine={"kind": "ray", "workers": 2})
    run_tiny(tmp_path / "serial", explainers=ENTRIES)
    first, second = (open_run(tmp_path / kind / "out") for kind in ("ray", "serial"))
    for name in first.maps:
        np.testing.assert_array_equal(first.maps[name].values, second.maps[name].values)


@pytest.mark.slow
def test_states_of_such_scans_are_tensors_in_files(tmp_path: Path) -> None:
    run_tiny(tmp_path, explainers={"pattern_net": {}, "expected_gradients": {}})
    folder = tmp_path / "out" / "states"
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert found == [
        f"{scan}/all/{shard}.safetensors"
        for scan in ("background", "patterns")
        for shard in range(5)
    ]
