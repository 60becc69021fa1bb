"""Quantus' metrics on our maps, and our explainers in Quantus."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network
from pipeline.errors import ConfigError, PlanError
from pipeline.metrics import available, build, scores
from pipeline.metrics.metric import Case, Subject
from pipeline.metrics.quantus import Quantus
from pipeline.metrics.quantus_calls import Noise, called, correlated, library, scaled
from pipeline.metrics.quantus_known import KNOWN, REFUSED

MANY = {
    "RelativeInputStability": {"nr_samples": 2},
    "RelativeOutputStability": {"nr_samples": 2},
    "RelativeRepresentationStability": {"nr_samples": 2},
    "Continuity": {"nr_steps": 4, "return_nan_when_prediction_changes": True},
    "MonotonicityCorrelation": {"nr_samples": 2, "features_in_step": 8},
    "NonSensitivity": {},
    "InputInvariance": {},
    "FaithfulnessCorrelation": {"nr_runs": 4, "subset_size": 8},
    "MaxSensitivity": {"nr_samples": 2},
}


@pytest.fixture(scope="module")
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4)).eval()


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(small_model(), images())


def quantus_scores(
    network: Network, inputs: Tensor, name: str = "input_x_gradient", **settings: Any
) -> Tensor:
    bound = explainers.get(name)(network)
    relevance = bound.attribute(inputs)
    found = scores("quantus", network, inputs, None, relevance, explainer=bound, **settings)
    return found["score"]


@pytest.mark.parametrize("metric", [*REFUSED, "RelativeInputStabilty"])
def test_what_cannot_be_scored_by_sample_is_refused_with_the_reason(metric: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build("quantus", {"metric": metric})
    reason, native = REFUSED.get(metric, ("did you mean 'RelativeInputStability'?", ""))
    assert reason in str(refused.value)
    assert native in str(refused.value)


def test_our_own_metrics_that_are_named_instead_exist() -> None:
    names = {row["name"] for row in available()}
    assert {native for _, native in REFUSED.values() if native} <= names


def test_the_documentation_lists_which_metrics_have_no_mode_of_quantus() -> None:
    text = (Path(__file__).parents[2] / "docs" / "quantus.md").read_text(encoding="utf-8")
    table = text.partition("have no field `compat`")[2].partition("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in row.replace("`", " ").split()}
    without = {row["name"] for row in available() if "compat" not in row["parameters"]}
    assert listed == without - {"quantus"}


def test_without_quantus_metrics_are_listed_and_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "quantus", None)
    (row,) = (each for each in available() if each["name"] == "quantus")
    assert row["requires"] == ["explainer", "network"]
    with pytest.raises(PlanError, match="pip install 'xpipe-xai\\[quantus\\]'"):
        library()


def test_direction_and_space_are_those_of_the_metric() -> None:
    assert Quantus().direction == "lower"
    assert Quantus().space == "logit"
    assert Quantus(output_space="probability").space == "probability"
    assert Quantus("MonotonicityCorrelation").direction == "higher"
    assert Quantus("MonotonicityCorrelation").space == "probability"
    assert Quantus("InputInvariance", output_space="logit").space == "none"
    assert {each.direction for each in KNOWN.values()} == {"higher", "lower"}


def test_what_the_adapter_sets_is_refused() -> None:
    with pytest.raises(ConfigError, match="got parameters 'return_aggregate'"):
        build("quantus", {"parameters": {"return_aggregate": True}})


def test_maps_are_scaled_one_by_one_and_zeros_stay() -> None:
    maps = np.array([[[-4.0, 2.0]], [[0.0, 0.0]], [[1e-9, 0.0]]])
    assert scaled(maps).tolist() == [[[-1.0, 0.5]], [[0.0, 0.0]], [[1.0, 0.0]]]


def test_rows_that_do_not_vary_have_no_correlation_and_others_have() -> None:
    one = np.array([[1.0, 2.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    other = np.array([[0.1, 0.3, 0.2, 0.4], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 0.0]])
    found = correlated(a=one, b=other, batched=True)
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    np.testing.assert_allclose(found, [4.5 / np.sqrt(4.5 * 5.0), np.nan, -1.0])


def test_numpy_is_left_as_it_was() -> None:
    names, state = set(dir(np)), np.random.get_state()[1].copy()
    with contextlib.suppress(RuntimeError), called(7):
        assert float(np.trapz(np.array([0.0, 1.0]))) == 0.5
        np.random.rand(3)
        raise RuntimeError
    assert set(dir(np)) == names
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.slow
@pytest.mark.parametrize("metric", MANY)
def test_scores_depend_neither_on_the_batch_nor_on_numpy_and_a_bad_map_is_nan_alone(
    quantus: Any, network: Network, metric: str
) -> None:
    inputs = images()
    bound = explainers.get("input_x_gradient")(network)
    relevance = bound.attribute(inputs)

    def scored(maps: Tensor, n: int = 4) -> Tensor:
        settings = {"metric": metric, "parameters": MANY[metric]}
        given = inputs[:n], None, maps[:n]
        return scores("quantus", network, *given, explainer=bound, **settings)["score"]

    before = relevance.clone()
    whole = scored(relevance)
    assert torch.equal(relevance, before)
    assert whole.isfinite().any()
    np.random.rand()
    torch.testing.assert_close(scored(relevance, 2), whole[:2], equal_nan=True)
    spoiled = relevance.clone()
    spoiled[1, 0, 3, 3] = torch.nan
    spoiled[2] = 0.0
    found = scored(spoiled)
    assert found[1:3].isnan().all()
    torch.testing.assert_close(found[[0, 3]], whole[[0, 3]], equal_nan=True)


class Negative:
    """Explains by maps that are negative everywhere, and zero where the picture is black."""

    def explain(self, trace: Any, target: Any) -> Tensor:
        varies = trace.inputs.flatten(1).any(dim=1).view(-1, 1, 1, 1)
        found: Tensor = (-1.0 - trace.inputs) * varies
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["RelativeInputStability", "Continuity", "MonotonicityCorrelation", "Sparseness"]
)
def test_maps_that_quantus_would_refuse_are_scored_alone_as_among_others(
    quantus: Any, network: Network, metric: str
) -> None:
    check = quantus.helpers.asserts.assert_attributions
    inputs, maps = images(), -1.0 - images()
    maps[1], maps[2] = 0.7, 1.0
    maps[3] = images()[3]
    parameters = dict(MANY.get(metric, {}))
    if metric == "RelativeInputStability":
        parameters["return_nan_when_prediction_changes"] = False
    if metric == "Continuity":
        parameters = {"nr_steps": 4}  # the first one is black
    settings, explainer = {"metric": metric, "parameters": parameters}, Negative()

    def scored(row: slice) -> Tensor:
        given = inputs[row], None, maps[row]
        return scores("quantus", network, *given, explainer=explainer, **settings)["score"]

    whole = scored(slice(0, 4))
    assert whole[[0, 3]].isfinite().all()
    torch.testing.assert_close(scored(slice(0, 1)), whole[:1])
    torch.testing.assert_close(scored(slice(0, 3)), whole[:3], equal_nan=True)
    assert quantus.helpers.asserts.assert_attributions is check


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["RelativeInputStability", "Continuity", "MonotonicityCorrelation", "NonSensitivity"]
)
def test_numbers_are_those_of_quantus_with_the_same_draws(
    quantus: Any, network: Network, metric: str
) -> None:
    inputs = images()
    bound = explainers.get("input_x_gradient")(network.module)
    relevance, classes = bound.attribute(inputs), network(inputs).argmax(1)
    trace = explainers.Trace(network, inputs)
    noise = Noise(trace, torch.arange(4))
    given = {"RelativeInputStability": noise, "MonotonicityCorrelation": noise.filled}
    drawn = {"perturb_func": given[metric]} if metric in given else {}
    with called(0):
        expected = getattr(quantus, metric)(
            disable_warnings=True, normalise_func=scaled, **MANY[metric], **drawn
        )(
            model=network.module,
            x_batch=inputs.numpy().copy(),
            y_batch=classes.numpy(),
            a_batch=relevance.numpy().copy(),
            explain_func=bound,
            channel_first=True,
        )
    found = quantus_scores(network, inputs, metric=metric, parameters=MANY[metric])
    # both in float32, the one on a program and the other on the module
    np.testing.assert_allclose(found, np.asarray(expected, np.float64), rtol=1e-4)


@pytest.mark.slow
def test_explainers_share_draws_and_each_explains_again(quantus: Any, network: Network) -> None:
    inputs = images()
    metric = Quantus(parameters={"nr_samples": 2})
    subjects = {}
    for name in ("saliency", "input_x_gradient"):
        bound = explainers.get(name)(network)
        subjects[name] = Subject(bound.attribute(inputs), bound)
    case = Case(explainers.Trace(network, inputs), explainers.Target())
    together = metric.scores(case, {**subjects, "twice": subjects["saliency"]})
    torch.testing.assert_close(together["saliency"], together["twice"], equal_nan=True)
    for name, subject in subjects.items():
        alone = metric.scores(case, {name: subject})[name]
        torch.testing.assert_close(alone, together[name], equal_nan=True)
    other = replace(subjects["saliency"], explainer=None)
    with pytest.raises(TypeError, match="expected one, as maps are explained again"):
        metric.scores(case, {"": other})


@pytest.mark.slow
def test_what_quantus_would_pass_over_is_refused(quantus: Any, network: Network) -> None:
    inputs = images(2)
    with pytest.raises(ValueError, match=r"got parameters \['nr_sample'\]"):
        quantus_scores(network, inputs, parameters={"nr_sample": 2})
    weights = explainers.Target.parse({"weights": [1.0, -1.0, 0.0, 0.0]})
    case = Case(explainers.Trace(network, inputs), weights)
    with pytest.raises(ValueError, match="a target that is no class"):
        Quantus().prepare(case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("MPRT", {}),  # randomises copies of the model in place
        ("EfficientMPRT", {}),
        ("InputInvariance", {}),  # shifts a copy of the model
        ("MaxSensitivity", {"nr_samples": 2}),  # changes the images
        ("RandomLogit", {"num_classes": 4}),  # changes the targets
    ],
)
def test_our_explainers_are_quantus_explain_func(
    quantus: Any, metric: str, settings: dict[str, Any]
) -> None:
    model, inputs = small_model(), images(2)
    classes = model(inputs).argmax(1)
    found = []
    for explain in (explainers.get("saliency")(model), gradients):
        scorer = getattr(quantus, metric)(disable_warnings=True, **settings)
        with called(3), np.errstate(all="ignore"):
            found.append(
                scorer(
                    model=model,
                    x_batch=inputs.numpy().copy(),
                    y_batch=classes.numpy(),
                    a_batch=None,
                    explain_func=explain,
                    channel_first=True,
                )
            )
    torch.testing.assert_close(numbers(found[0]), numbers(found[1]), rtol=1e-4, atol=1e-5)


def gradients(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
    """What `saliency` is, by autograd alone."""
    given = torch.as_tensor(inputs).detach().clone().requires_grad_()
    output = model(given).gather(1, torch.as_tensor(targets)[:, None]).sum()
    return torch.autograd.grad(output, given)[0].abs().numpy()


def numbers(scored: Any) -> Tensor:
    values = list(scored.values()) if isinstance(scored, dict) else scored
    return torch.tensor(np.asarray(values, dtype=np.float64))


@pytest.mark.slow
def test_another_model_is_read_again_only_when_its_weights_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, other, inputs = small_model(), small_model(), images(2)
    bound = explainers.get("saliency")(model)
    classes = np.array([0, 1])
    read: list[nn.Module] = []

    class Counted(Network):
        def __init__(self, of: Any, given: Any) -> None:
            read.append(of)
            super().__init__(of, given)

    monkeypatch.setattr("explainers.bound.Network", Counted)
    for change in (0.0, 0.0, 0.5, 0.0):
        with torch.no_grad():
            other[0].weight.add_(change)
        # sums with NumPy's draws are float64
        found = bound(model=other, inputs=inputs.double().numpy(), targets=classes)
        expected = gradients(other, inputs, classes)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert len(read) == 2
    other[0].weight.data.mul_(2.0)  # behind the back of autograd
    bound(model=other, inputs=inputs.numpy(), targets=classes)
    assert len(read) == 3
