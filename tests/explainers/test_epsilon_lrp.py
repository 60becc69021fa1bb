"""DeepExplain's epsilon-LRP: against its definition, and accounted for to rounding."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network
from explainers.operators import Activation, Multiply, Normalise, Operator, Softmax, Unary
from explainers.rules.multipliers import epsilon_lrp
from tests.explainers.twins import network_twin, seeded

pytestmark = pytest.mark.slow

# Same formula, same float64: what is left is the order of some hundred operations, of which some
# divide by epsilon.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


class Multiplied(torch.autograd.Function):
    """An activation whose derivative is ``f(x) / (x + epsilon * sign(x))``, value by value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Any, epsilon: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind, ctx.epsilon = kind, epsilon
        return kind(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        slopes = [
            float(ctx.kind(value)) / (float(value) + (ctx.epsilon if value >= 0 else -ctx.epsilon))
            for value in x.flatten()
        ]
        return gradient * torch.tensor(slopes, dtype=x.dtype).view_as(x), None, None


class Branching(nn.Module):
    """Activations of five kinds, a margin of ones, constants that are added and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(8, 3, 3, padding=1)
        self.position = nn.Parameter(torch.empty(4, 6, 6))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(12, 4)

    def forward(self, x: Tensor, activate: Any = lambda x, kind: kind(x)) -> Tensor:
        x = activate(self.first(x), torch.relu)
        x = self.norm(x + self.position)
        x = torch.cat([activate(x, torch.tanh), self.position.expand(len(x), -1, -1, -1)], 1)
        x = functional.pad(x, (1, 0, 0, 1), value=1.0)
        x = activate(self.second(functional.max_pool2d(x, 2)), functional.elu)
        x = functional.avg_pool2d(activate(x, functional.softplus), (2, 2), ceil_mode=True)
        return self.head(activate(x, torch.sigmoid).flatten(1))


@functools.cache
def branching() -> tuple[nn.Module, Network, Tensor]:
    model = seeded(Branching())
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(3, 2, 8, 8, generator=generator, dtype=torch.float64)
    return model, Network(model, inputs), inputs


@pytest.mark.parametrize("epsilon", [1e-4, 0.1])
def test_maps_are_those_of_the_definition(epsilon: float) -> None:
    model, network, inputs = branching()
    leaf = inputs.clone().requires_grad_()
    output = model(leaf, lambda x, kind: Multiplied.apply(x, kind, epsilon))
    (slope,) = torch.autograd.grad(output[:, 1].sum(), leaf)
    found = explainers.explain(network, "epsilon_lrp", inputs, 1, epsilon=epsilon)
    torch.testing.assert_close(found, inputs * slope, **TOLERANCE)


@pytest.mark.parametrize("epsilon", [1e-4, 0.1])
@pytest.mark.parametrize("name", ["branching", "cnn"])
def test_all_relevance_is_accounted_for(name: str, epsilon: float) -> None:
    if name == "cnn":
        network, inputs = network_twin("cnn", "modules")
    else:
        _, network, inputs = branching()
    found = explainers.get("epsilon_lrp")(network, epsilon=epsilon).explain(inputs, 2)
    arrays = found.arrays
    torch.testing.assert_close(arrays["output_relevance"], network(inputs)[:, 2], **TOLERANCE)
    kept = arrays["absorbed_by_bias"] + arrays["absorbed_by_stabiliser"] + arrays["lost"]
    total = found.relevance.flatten(1).sum(1) + kept
    torch.testing.assert_close(total, arrays["output_relevance"], rtol=0, atol=1e-12)
    assert float(arrays["absorbed_by_bias"].abs().min()) > 1e-3
    assert float(arrays["absorbed_by_stabiliser"].abs().min()) > 1e-6
    assert not bool(arrays["lost"].any())


def test_the_sign_of_zero_is_positive() -> None:
    op = Activation(name="y", module_path="", inputs=("a",), kind="sigmoid")
    value = torch.tensor([[0.0, -0.0, 2.0, -2.0]], dtype=torch.float64)
    rule = epsilon_lrp.find(op)
    found = rule(op, torch.ones_like(value), {"a": value, "y": op.run(value)}, epsilon=0.5)
    high = float(torch.sigmoid(value[0, 2]))
    expected = [[1.0, 1.0, high / 2.5, (1 - high) / -2.5]]
    (part,) = found.relevances  # type: ignore[union-attr]
    torch.testing.assert_close(part, torch.tensor(expected, dtype=torch.float64), **TOLERANCE)


def plain(kind: type[Any], /, **fields: Any) -> Operator:
    made: Operator = kind(name="y", module_path="head", inputs=("a",), **fields)
    return made


@pytest.mark.parametrize(
    "op",
    [
        plain(Multiply),
        plain(Softmax, dim=1),
        plain(Normalise, kind="layer", shape=(3,), weight=None, bias=None, eps=None),
        plain(Unary, function=torch.ops.aten.exp.default, arguments=()),
    ],
)
def test_what_is_no_activation_is_refused_with_what_would_work(op: Operator) -> None:
    message = r"'epsilon_lrp' has no rule.*in 'head'\); use lrp, deep_lift or integrated_gradients"
    with pytest.raises(NotImplementedError, match=message):
        epsilon_lrp.find(op)


@pytest.mark.parametrize("epsilon", [0.0, -1e-3, float("inf")])
def test_an_epsilon_that_is_not_above_zero_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="got epsilon="):
        explainers.build("epsilon_lrp", epsilon=epsilon)
