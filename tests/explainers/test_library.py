"""explainers as a library: finding, binding, explaining, scanning, adding."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import explainers
import explainers.attribution
from explainers import Network, Samples, Scan, Target, Trace
from explainers.base import Cost, Result, Round, State
from explainers.catalogue import methods
from tests.explainers.twins import network_twin, seeded, twin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


METHOD = '''
from dataclasses import dataclass
from explainers import Attribution, Cost, register

@register("brightness")
@dataclass(frozen=True)
class Brightness(Attribution):
    """The input, times a factor."""

    factor: float = 2.0
    cost = Cost()

    def relevance(self, trace, target):
        return trace.inputs * self.factor
'''


@pytest.fixture(scope="module")
def linear() -> Network:
    """Four numbers to three classes, read as a program once."""
    return Network(nn.Linear(4, 3), torch.ones(2, 4))


@pytest.fixture
def fresh_methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets a test register methods that are forgotten afterwards."""
    methods.names()
    monkeypatch.setattr(methods, "_things", dict(methods._things))
    monkeypatch.setattr(methods, "_is_discovered", False)
    yield
    sys.modules.pop("explainers.attribution.brightness", None)
    sys.modules.pop("brightness_elsewhere", None)


@pytest.mark.usefixtures("fresh_methods")
def test_a_method_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brightness.py").write_text(METHOD)
    path = [*explainers.attribution.__path__, str(tmp_path)]
    monkeypatch.setattr(explainers.attribution, "__path__", path)
    inputs = torch.ones(2, 3)
    found = explainers.explain(nn.Linear(3, 2), "brightness", inputs, factor=3.0)
    assert torch.equal(found, inputs * 3)
    (entry,) = [entry for entry in explainers.available() if entry["name"] == "brightness"]
    assert entry["summary"] == "The input, times a factor."
    assert entry["parameters"] == {"layer": None, "factor": 2.0}


@pytest.mark.usefixtures("fresh_methods")
def test_a_method_of_another_distribution_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brightness_elsewhere.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("brightness", "brightness_elsewhere:Brightness", "xpipe.explainers")
    monkeypatch.setattr("explainers.registry.entry_points", lambda group: [entry])
    assert "brightness" in methods
    assert explainers.method("brightness").name == "brightness"


@pytest.mark.slow
def test_importing_the_package_imports_no_method_and_nothing_heavy() -> None:
    code = (
        "import sys, explainers; explainers.available; "
        "heavy = {'torchvision', 'captum', 'zennit', 'ray', 'pydantic', 'explainers.network', "
        "'explainers.attribution.lrp'}; sys.exit(sorted(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_available_tells_what_is_known_without_a_model() -> None:
    entries = {entry["name"]: entry for entry in explainers.available()}
    assert set(entries) >= {
        "gradient",
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "lrp",
    }
    entry = entries["integrated_gradients"]
    assert entry["kind"] == "attribution"
    assert entry["cost"] == Cost(forward=52, backward=50)
    assert entry["parameters"]["n_steps"] == 50
    assert entries["lrp"]["requires"] == {"lrp"}
    assert all(entry["summary"].endswith(".") for entry in entries.values())


def test_an_unknown_method_or_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(LookupError, match="did you mean 'saliency'"):
        explainers.get("salency")
    with pytest.raises(TypeError, match="did you mean 'n_steps'"):
        explainers.get("integrated_gradients")(nn.Linear(2, 2), n_step=3)
    with pytest.raises(TypeError, match="no parameter 'abs'"):
        explainers.get("saliency")(nn.Linear(2, 2), abs=True)


def test_a_network_is_accepted_wherever_a_model_is() -> None:
    model, inputs = twin("cnn", "modules")
    network, _ = network_twin("cnn", "modules")
    by_model = explainers.explain(model, "lrp", inputs)
    by_network = explainers.explain(network, "lrp", inputs)
    assert torch.equal(by_model, by_network)


def test_a_bound_method_reads_the_model_once_for_each_shape() -> None:
    model, inputs = twin("cnn", "modules")
    bound = explainers.get("saliency")(model)
    assert bound.network(inputs) is bound.network(inputs[:1])


def test_the_result_has_the_structure_of_the_inputs() -> None:
    network, inputs = network_twin("cnn", "modules")
    bound = explainers.get("saliency")(network)
    expected = bound.attribute(inputs)
    (in_tuple,) = bound.attribute((inputs,))
    in_dict = bound.attribute({"image": inputs})
    assert torch.equal(in_tuple, expected)
    assert torch.equal(in_dict["image"], expected)
    with pytest.raises(TypeError, match="got a tuple of 2 inputs, expected a tensor"):
        bound.attribute((inputs, inputs))


def test_the_users_model_and_inputs_are_untouched() -> None:
    model, inputs = twin("cnn", "modules")
    model.train()
    inputs.requires_grad_()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("integrated_gradients", "lrp"):
        relevance = explainers.explain(model, name, inputs, target=1)
        assert not relevance.requires_grad
    assert model.training
    assert inputs.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_captums_noise_tunnel_accepts_a_bound_method() -> None:
    model, inputs = twin("cnn", "modules")
    maps = []
    for method in (Saliency(model), explainers.get("saliency")(model)):
        torch.manual_seed(0)
        tunnel = NoiseTunnel(method)
        maps.append(tunnel.attribute(inputs, nt_samples=3, stdevs=0.1, target=1))
    torch.testing.assert_close(maps[1], maps[0], rtol=0, atol=1e-8)


def test_captums_noise_tunnel_is_refused_a_delta_as_captums_saliency_refuses_it() -> None:
    model, inputs = twin("cnn", "modules")
    bound = explainers.get("integrated_gradients")(model, n_steps=4)
    assert IntegratedGradients(model).has_convergence_delta()
    assert not NoiseTunnel(bound).has_convergence_delta()
    for method in (Saliency(model), bound):
        with pytest.raises(TypeError, match="unexpected keyword argument 'return_convergence"):
            NoiseTunnel(method).attribute(
                inputs, nt_samples=2, target=1, return_convergence_delta=True
            )


@pytest.mark.slow
def test_a_bound_method_can_be_called_as_quantus_does() -> None:
    model, other = (seeded(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), seed) for seed in (0, 1))
    inputs = torch.randn(3, 4, dtype=torch.float64)
    bound = explainers.get("saliency")(model)
    targets = torch.tensor([0, 1, 2])
    for asked in (model, other):
        found = bound(model=asked, inputs=inputs.numpy(), targets=targets.numpy(), device="cpu")
        expected = explainers.explain(asked, "saliency", inputs, targets)
        assert torch.equal(torch.from_numpy(found), expected)


class Classes(Scan):
    """Counts labels and predictions, in two rounds, and remembers how often it was asked."""

    cost = Cost(forward=1)

    def init(self) -> State:
        return {"n": torch.zeros(3, dtype=torch.int64), "last": torch.tensor(-1)}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        counts = torch.bincount(trace.prediction, minlength=3)
        return {"n": state["n"] + counts, "last": samples.index.max()}

    def merge(self, left: State, right: State) -> State:
        return {"n": left["n"] + right["n"], "last": torch.maximum(left["last"], right["last"])}

    def finalise(self, state: State) -> Result:
        return dict(state)

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        return Round(f"round_{len(results)}", self) if len(results) < 2 else None

    def conclude(self, results: Mapping[str, Result]) -> Result:
        return {**results["round_1"], "rounds": len(results)}


@pytest.mark.usefixtures("fresh_methods")
@pytest.mark.parametrize("has_labels", [True, False])
def test_a_scan_runs_all_its_rounds_over_a_loader(has_labels: bool) -> None:
    explainers.register("classes")(Classes)
    model = nn.Linear(4, 3)
    inputs = torch.randn(10, 4)
    loader: list[Any] = [
        (part, torch.zeros(len(part)).long()) if has_labels else part
        # an empty batch is nothing
        for part in (inputs[:0], *inputs.split(4), inputs[:0])
    ]
    result = explainers.scan(model, "classes", loader)
    expected = torch.bincount(model(inputs).argmax(1), minlength=3)
    assert torch.equal(result["n"], expected)
    assert int(result["last"]) == 9
    assert result["rounds"] == 2


def test_the_scans_package_is_the_driver_too() -> None:
    import explainers.scan

    explainers.methods.names()
    with pytest.raises(TypeError, match="is no scan"):
        explainers.scan(nn.Linear(2, 2), "saliency", [torch.ones(1, 2)])


def test_what_cannot_be_scanned_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="can be read once"):
        explainers.scan(model, "moments", (batch for batch in [torch.ones(1, 2)]))
    with pytest.raises(ValueError, match="no batch"):
        explainers.scan(model, "moments", [])
    nothing = [(torch.ones(0, 2), torch.zeros(0).long())]
    for loader in ([], nothing):
        with pytest.raises(ValueError, match="no samples"):
            explainers.scan(explainers.Network(model, torch.ones(1, 2)), "moments", loader)
    with pytest.raises(TypeError, match="is a scan"):
        explainers.get("moments")(model)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1], ValueError, r"labels of shape \(2,\) for 3 rows; expected \(3,\)"),
        (torch.zeros(3, 1).long(), ValueError, r"labels of shape \(3, 1\) for 3 rows"),
        (2, ValueError, r"labels of shape \(\) for 3 rows"),
        ([0.9, 1.9, -0.5], TypeError, "labels of torch.float32, expected integers"),
        (torch.ones(3), TypeError, "labels of torch.float32, expected integers"),
        (torch.ones(3) > 0, TypeError, "labels of torch.bool, expected integers"),
        (["cat", "dog", "cat"], TypeError, r"got labels \['cat', 'dog', 'cat'\], expected"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    linear: Network, labels: Any, error: type[Exception], message: str
) -> None:
    inputs = torch.randn(3, 4)
    with pytest.raises(error, match=message):
        explainers.scan(linear, "moments", [(inputs, labels)], per_class=True)
    with pytest.raises(error, match=message):
        explainers.explain(linear, "gradient", inputs, "label", labels=labels)


@pytest.mark.parametrize("of", [list, torch.tensor, np.array, tuple])
def test_labels_are_integers_in_any_container(linear: Network, of: Any) -> None:
    inputs = torch.randn(3, 4)
    loader = [(inputs, of([2, -1, 2]))]
    result = explainers.scan(linear, "moments", loader, per_class=True)
    assert result["per_class"]["label"].tolist() == [-1, 2]
    assert result["per_class"]["count"].tolist() == [1, 2]


def test_a_loader_of_no_batches_is_refused() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(TypeError, match=r"got a tensor of shape \(6, 4\).*pass \[inputs\]"):
        explainers.scan(model, "moments", torch.randn(6, 4))
    for batch in (np.ones((2, 4)), (np.ones((2, 4)), [0, 1]), 3, [torch.ones(2, 4)], "batch"):
        with pytest.raises(TypeError, match=r"expected inputs or \(inputs, labels\)"):
            explainers.scan(model, "moments", [batch])


def test_the_target_label_takes_the_labels_that_are_given() -> None:
    network, inputs = network_twin("cnn", "modules")
    labels = torch.tensor([4, 0, 2])
    expected = explainers.explain(network, "gradient", inputs, target=labels)
    bound = explainers.get("gradient")(network)
    for found in (
        explainers.explain(network, "gradient", inputs, "label", labels=labels),
        bound.attribute(inputs, "label", labels=labels),
        bound.explain(inputs, "label", labels=labels).relevance,
    ):
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="got none; pass labels="):
        bound.attribute(inputs, "label")


def test_inputs_that_are_no_tensor_are_refused() -> None:
    network, inputs = network_twin("cnn", "modules")
    bound = explainers.get("saliency")(network)
    for wrong in (inputs.numpy(), (inputs.numpy(),), {"image": inputs.numpy()}, 3, [[1.0]]):
        with pytest.raises(TypeError, match=r"expected a tensor.*torch.as_tensor\(inputs\)"):
            bound.attribute(wrong)


@pytest.mark.parametrize("is_network", [True, False])
def test_a_sample_without_a_batch_axis_is_refused(is_network: bool) -> None:
    model, inputs = twin("cnn", "modules")
    bound = explainers.get("saliency")(network_twin("cnn", "modules")[0] if is_network else model)
    message = r"got inputs of shape \(3, 28, 28\), expected \(batch, .*inputs\[None\]"
    with pytest.raises(ValueError, match=message):
        bound.attribute(inputs[0], 0)


def test_a_target_is_accepted_in_every_form() -> None:
    network, inputs = network_twin("cnn", "modules")
    third = explainers.explain(network, "gradient", inputs, target=3)
    for form in (
        torch.tensor(3),
        torch.tensor([3, 3, 3]),
        torch.eye(5, dtype=torch.float64)[3],
        {"weights": [0, 0, 0, 1, 0]},
        Target.parse(3),
    ):
        assert torch.equal(explainers.explain(network, "gradient", inputs, target=form), third)


def test_inference_mode_changes_nothing() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softplus(), torch.nn.Linear(4, 2))
    inputs = torch.randn(2, 3)
    outside = Network(model, inputs)
    with torch.inference_mode():
        made_there = inputs.clone()
        inside = Network(model, made_there)
    assert inside.is_program, inside.reason
    for method in ("gradient", "lrp", "integrated_gradients", "deep_lift"):
        expected = explainers.explain(outside, method, inputs, 1)
        assert bool(expected.any())
        for given in (inputs, made_there):
            with torch.inference_mode():
                assert torch.equal(explainers.explain(inside, method, given, 1), expected)
            assert torch.equal(explainers.explain(inside, method, given, 1), expected)


def test_inference_mode_serves_models_that_cannot_be_read() -> None:
    def branching(inputs: torch.Tensor) -> torch.Tensor:
        return inputs.square() if float(inputs.detach().sum()) > 1e9 else inputs.square() * 2

    with torch.inference_mode():
        inputs = torch.ones(2, 3)
        found = explainers.explain(branching, "gradient", inputs, 1)
    assert found.tolist() == [[0.0, 4.0, 0.0]] * 2


def test_a_trace_in_inference_mode_is_refused_where_it_would_find_zero() -> None:
    inputs = torch.randn(2, 3)
    network = Network(torch.nn.Sequential(torch.nn.Softplus(), torch.nn.Linear(3, 2)), inputs)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*leave it"):
        Trace(network, inputs).gradient(Target(1))
