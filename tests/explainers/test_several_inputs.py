"""Models of several inputs: packed for a method, given back as they came."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from captum.attr import IntegratedGradients, LayerIntegratedGradients
from torch import Tensor, nn

import explainers
from explainers import Network, Target, Trace
from explainers.driver import _traced
from explainers.explaining import by_part, check, form

if TYPE_CHECKING:
    from collections.abc import Callable

# both sum the same products of doubles in another order
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


class Two(nn.Module):
    """A picture and a table, weighted by how often the sample counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 3, 3), nn.Linear(5, 4)
        self.drop, self.fc = nn.Dropout(), nn.Linear(3 * 4 + 4, 3)

    def forward(self, image: Tensor, table: Tensor, counts: Tensor) -> Tensor:
        joined = torch.cat([self.conv(image).relu().flatten(1), self.linear(table).relu()], 1)
        return self.fc(self.drop(joined) * counts.to(image)[:, None])


class Opaque(Two):
    def forward(self, image: Tensor, table: Tensor, counts: Tensor) -> Tensor:
        return super().forward(image, table, counts if counts.sum() < 99 else -counts)


@functools.cache
def networks() -> tuple[Two, Network, Network, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    model, opaque = Two().double().eval(), Opaque().double().eval()
    opaque.load_state_dict(model.state_dict())
    inputs = (
        torch.randn(4, 1, 4, 4, dtype=torch.float64),
        torch.randn(4, 5, dtype=torch.float64),
        torch.tensor([1, 2, 3, 1]),
    )
    return model, Network(model, inputs), Network(opaque, inputs), inputs


@pytest.mark.parametrize("is_program", [True, False])
@pytest.mark.parametrize("baseline", [None, (0.2, -0.5, None)])
def test_integrated_gradients_are_captums(is_program: bool, baseline: Any) -> None:
    model, program, opaque, inputs = networks()
    network = program if is_program else opaque
    assert network.is_program == is_program
    found = explainers.explain(
        network, "integrated_gradients", inputs, 1, n_steps=4, baseline=baseline
    )
    expected = IntegratedGradients(model).attribute(
        inputs[:2],
        baselines=None if baseline is None else baseline[:2],
        additional_forward_args=inputs[2:],
        target=1,
        n_steps=4,
    )
    assert found[2] is None
    for one, other in zip(found[:2], expected, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


@pytest.mark.slow
def test_names_order_and_structure_are_the_users() -> None:
    model, network, _, inputs = networks()
    named = dict(zip(("image", "table", "counts"), inputs, strict=True))
    turned = {name: named[name] for name in ("counts", "table", "image")}
    by_name = Network(model, turned)
    assert by_name.structure.names == ("image", "table", "counts")
    found = explainers.explain(by_name, "gradient", turned, 0)
    expected = explainers.explain(network, "gradient", inputs, 0)
    assert found["counts"] is None
    for name, other in zip(named, expected, strict=True):
        assert found[name] is None or torch.equal(found[name], other)


def test_a_network_of_several_inputs_equals_its_model() -> None:
    model, network, opaque, inputs = networks()
    rows = tuple(part[[2, 0, 1]] for part in inputs)
    with torch.no_grad():
        torch.testing.assert_close(network(rows), model(*rows), **TOLERANCE)
        torch.testing.assert_close(opaque(rows), model(*rows), **TOLERANCE)
        hidden = model.conv(rows[0])
    trace = Trace(network, rows)
    torch.testing.assert_close(trace.layer("conv"), hidden, **TOLERANCE)
    assert "drop" in network.layers
    assert network.input_shapes == {"0": (1, 4, 4), "1": (5,), "2": ()}
    assert Trace(opaque, rows).output.shape == (3, 3)


@pytest.mark.parametrize("method", ["lrp", "deep_lift", "smooth_grad", "random"])
def test_methods_see_one_tensor(method: str) -> None:
    _, network, _, inputs = networks()
    check(explainers.build(method), network)
    bound = explainers.get(method)(network)
    found = bound.explain(inputs, 1)
    shapes = {"0": (4, 1, 4, 4), "1": (4, 5)}
    assert {
        name: tuple(part.shape) for name, part in by_part(found.relevance, network).items()
    } == (shapes)
    if method == "deep_lift":
        assert float(found.arrays["convergence_delta"].abs().max()) <= 1e-12
    if method == "smooth_grad":
        for name, shape in shapes.items():
            assert found.arrays[f"standard_error.{name}"].shape == shape


def test_a_layer_and_a_unit_of_a_model_of_several_inputs() -> None:
    model, network, opaque, inputs = networks()
    found = explainers.explain(
        network, "integrated_gradients", inputs, 1, layer="linear", n_steps=4, baseline=0.1
    )
    expected = LayerIntegratedGradients(model, model.linear).attribute(
        inputs[:2], (0.1, 0.1), additional_forward_args=inputs[2:], target=1, n_steps=4
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)
    target = {"layer": "linear", "unit": 2}
    of_image, of_table, _ = explainers.explain(network, "gradient", inputs, target)
    assert not bool(of_image.any())
    assert torch.equal(of_table, model.linear.weight[2].expand(4, -1))
    with pytest.raises(NotImplementedError, match="layer 'linear' cannot be found"):
        explainers.explain(opaque, "gradient", inputs, layer="linear")


def test_forms_have_the_names_of_the_inputs() -> None:
    _, network, _, _ = networks()
    found = form(explainers.build("gradient"), network)
    assert found == {
        "0": (("channel", "height", "width"), (1, 4, 4)),
        "1": (("feature_0",), (5,)),
    }


def test_a_trace_of_several_inputs_refuses_to_be_taken_for_one() -> None:
    _, network, _, inputs = networks()
    trace = Trace(network, inputs)
    with pytest.raises(TypeError, match="3 inputs, expected one tensor"):
        trace.gradient(Target.parse(0))
    with pytest.raises(TypeError, match=r"take network\.input_shapes"):
        _ = network.input_shape


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda parts: parts[:2], TypeError, "got a tuple of 2 inputs, expected a tuple of 3"),
        (lambda parts: parts[0], TypeError, "got a tensor, expected a tuple of 3"),
        (lambda parts: (parts[0], parts[1][:2], parts[2]), ValueError, "inputs of 4, 2, 4 rows"),
        (lambda parts: (parts[0], parts[1][:, :3], parts[2]), ValueError, "got input '1' of shape"),
        (lambda parts: (parts[0], parts[1], [1]), TypeError, "got inputs of type 'list'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    change: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    _, network, _, inputs = networks()
    with pytest.raises(error, match=words):
        explainers.explain(network, "gradient", change(inputs), 0)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ((0.1, 0.2), "got one baseline for 3 inputs"),
        ({"image": 0.1}, "baselines for 'image'"),
        ((torch.zeros(7), None, None), "baseline has shape"),
    ],
)
def test_baselines_that_do_not_fit_are_refused(baseline: Any, words: str) -> None:
    _, network, _, inputs = networks()
    with pytest.raises(ValueError, match=words):
        explainers.explain(network, "integrated_gradients", inputs, 0, baseline=baseline)


def test_a_scan_reads_several_inputs() -> None:
    _, network, _, inputs = networks()
    loader = [(inputs, [0, 1, 2, 0]), (tuple(part[:1] for part in inputs), None)]
    seen = list(_traced(network, loader, 0, "moments"))
    assert [samples.label.tolist() for _, samples in seen] == [[0, 1, 2, 0], [-1]]
    assert seen[1][1].index.tolist() == [4]
    assert seen[1][0].output.shape == (1, 3)
    with pytest.raises(TypeError, match="the network has 3 inputs"):
        explainers.scan(network, "moments", loader)
