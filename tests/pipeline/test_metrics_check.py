"""Metrics that cannot score are refused before any sample is explained."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from explainers import Target
from pipeline.errors import PlanError
from pipeline.inputs import ALONE, Part
from pipeline.metrics import Metric, build, metrics
from pipeline.metrics.removal import absent
from pipeline.metrics.road import Road
from pipeline.planning import fit
from pipeline.report import curve_plots

if TYPE_CHECKING:
    from torch import Tensor

IMAGE, VECTOR, SIGNAL = (3, 21, 17), (12,), (2, 30)


def checked(
    name: str,
    settings: dict[str, Any],
    shape: tuple[int, ...] = IMAGE,
    *,
    n_outputs: int = 4,
    target: Any = "predicted",
) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    network: Any = SimpleNamespace(n_outputs=n_outputs, root=SimpleNamespace(module=module))
    form = {ALONE: Part(shape, "float32")}
    fit.check_metric(
        build(name, settings),
        settings,
        lambda *keys: ".".join(("metrics", name, *map(str, keys))),
        network,
        form,
        [Target.parse(target)],
    )


@pytest.mark.parametrize(
    ("name", "settings", "shape", "said"),
    [
        ("top_k_intersection", {"k": 1000}, IMAGE, r"\.k: got k 1000 for maps of 357 values"),
        ("faithfulness_correlation", {"subset_size": 500}, IMAGE, "500 of 357 features"),
        ("infidelity", {"square": 40}, IMAGE, "squares of 40 pixels"),
        ("infidelity", {"compat": "quantus"}, IMAGE, "patches of 4 pixels"),
        ("infidelity", {"noise": "square"}, VECTOR, "expected images"),
        ("region_perturbation", {"patch_size": [4, 4, 4]}, IMAGE, r"patches \[4, 4, 4\]"),
        ("selectivity", {"patch_size": [4, 4, 4]}, IMAGE, r"patches \[4, 4, 4\]"),
        ("mprt", {"layers": ["nope*"]}, IMAGE, r"layers\.0: no layer .* matches 'nope\*'"),
        ("smooth_mprt", {"layers": ["nope*"]}, IMAGE, r"layers\.0: no layer .* 'nope\*'"),
        ("road", {}, VECTOR, "expected images"),
        ("irof", {}, VECTOR, "expected a picture"),
        ("pixel_flipping", {"baseline": {"blur": 3}}, VECTOR, "the baseline 'blur'"),
        ("completeness", {"baseline": [0.1, 0.2]}, IMAGE, "baseline has shape"),
        ("sensitivity_n", {"compat": "quantus"}, VECTOR, "expected images"),
    ],
)
def test_parameters_that_do_not_fit_the_samples_are_refused(
    name: str, settings: dict[str, Any], shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(PlanError, match=rf"^metrics\.{name}.*{said}"):
        checked(name, settings, shape)


@pytest.mark.parametrize("name", ["pixel_flipping", "road", "random_logit", "insertion"])
def test_a_network_of_one_output_is_refused_where_two_are_compared(name: str) -> None:
    with pytest.raises(PlanError, match="with one output"):
        checked(name, {}, n_outputs=1)


def test_metrics_of_logits_take_a_network_of_one_output() -> None:
    checked("pixel_flipping", {"output_space": "logit"}, n_outputs=1)
    checked("infidelity", {}, n_outputs=1)


# road and irof are of images
@pytest.mark.parametrize("shape", [IMAGE, VECTOR, SIGNAL])
def test_defaults_of_every_metric_pass(shape: tuple[int, ...]) -> None:
    of_images = {"quantus"} if shape == IMAGE else {"quantus", "road", "irof"}
    for name in set(metrics.names()) - of_images:
        checked(name, {}, shape)


def test_maps_of_signals_have_all_their_values() -> None:
    checked("top_k_intersection", {"k": 60}, SIGNAL)
    with pytest.raises(PlanError, match="60 values"):
        checked("top_k_intersection", {"k": 61}, SIGNAL)


def test_samples_of_several_tensors_are_not_looked_at() -> None:
    form = {"tokens": Part((9,), "int64")}
    fit.check_metric(Road(), {}, lambda *_keys: "road", None, form, [Target.parse("predicted")])


def test_superpixels_without_scikit_image_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(PlanError, match=r"xpipe-xai\[superpixels\]"):
        checked("irof", {})


def test_quantus_is_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quantus", None)
    with pytest.raises(PlanError, match=r"(?s)metrics\.quantus: .*xpipe-xai\[quantus\]") as caught:
        checked("quantus", {})
    assert caught.value.fix


def test_quantus_is_refused_where_no_class_is_explained() -> None:
    with pytest.raises(PlanError, match="no class"):
        checked("quantus", {}, target={"weights": [1, -1, 0, 0]})


def test_metrics_that_check_nothing_pass() -> None:
    class Theirs(Metric):
        direction = "higher"

        def score(self, case: Any, relevance: Tensor) -> dict[str, Tensor]:
            raise NotImplementedError

    form = {ALONE: Part(IMAGE, "float32")}
    fit.check_metric(Theirs(), {}, lambda *_keys: "", None, form, [Target.parse("predicted")])


@pytest.mark.parametrize("baseline", ["mean", "uniform", 0.5, {"blur": 2.0}])
def test_whole_numbers_are_refused_where_a_baseline_is_none(baseline: Any) -> None:
    trace: Any = SimpleNamespace(inputs=torch.ones(2, 3, 4, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"inputs of torch.int64 .* expected floating-point"):
        absent(trace, baseline)


@pytest.mark.parametrize("baseline", ["black", "white", 1])
def test_whole_numbers_have_baselines_of_whole_numbers(baseline: Any) -> None:
    trace: Any = SimpleNamespace(inputs=torch.ones(2, 3, 4, 4, dtype=torch.int64))
    assert (absent(trace, baseline) == 1).all()


def test_road_says_that_it_needs_floating_point_numbers() -> None:
    trace: Any = SimpleNamespace(
        inputs=torch.ones(2, 3, 4, 4, dtype=torch.int64), output=torch.zeros(2, 3)
    )
    case: Any = SimpleNamespace(network_trace=lambda: trace)
    with pytest.raises(TypeError, match="expected floating-point"):
        Road().prepare(case)


def test_a_metric_without_scores_is_not_asked_for_curves() -> None:
    metric: Any = SimpleNamespace(name="regions", explainers=("lrp",))
    config = SimpleNamespace(explainers={})
    run: Any = SimpleNamespace(config=config, maps={}, scores=lambda *_names: {})
    assert curve_plots.plots(run, [metric]) == []
