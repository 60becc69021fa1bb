"""The walk with the table ``gradient`` is autograd's gradient; without a rule it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from explainers.network import Network
from explainers.operators import Add, Convolution, MaxPool, Operator
from explainers.rules.gradient import gradient
from explainers.rules.table import RuleTable
from explainers.rules.walking import walk
from explainers.trace import Trace
from tests.explainers.zoo import (
    Weighted,
    gradient_by_autograd,
    relative_error,
    small,
    small_network,
    weights_of,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("has_softmax", [False, True])
def test_the_walk_is_autograds_gradient(has_softmax: bool) -> None:
    model, inputs = small(has_softmax=has_softmax)
    network = Network(model, inputs)
    model.has_softmax = False
    trace = Trace(network, inputs)
    weights = weights_of(trace)
    expected = gradient_by_autograd(model, inputs, weights)
    assert relative_error(trace.gradient(Weighted(weights)), expected) <= 1e-12


def test_an_output_that_does_not_depend_on_the_input_has_no_gradient() -> None:
    network = Network(lambda inputs: torch.ones(len(inputs), 2) + 0 * inputs, torch.ones(2, 2))
    trace = Trace(network, torch.ones(3, 2))
    assert torch.equal(trace.gradient(Weighted(torch.ones(3, 2))), torch.zeros(3, 2))


def test_an_operator_without_a_rule_is_an_error_that_names_all() -> None:
    _, inputs = small()
    trace = Trace(small_network(), inputs)
    table = RuleTable("partial")
    table.rule(Convolution)(gradient.find(trace.network.operator("conv1")))
    with pytest.raises(NotImplementedError, match=r"'partial'.*Linear.*'fc'"):
        trace.backward(table.find, Weighted(weights_of(trace)), key="partial")


def test_a_class_uses_the_rule_of_its_nearest_base() -> None:
    table = RuleTable("bases")

    def base(op: Operator, *_: object) -> tuple[None, ...]:
        return (None,) * len(op.inputs)

    def special(op: Operator, *_: object) -> tuple[None, ...]:
        return (None,) * len(op.inputs)

    table.rule(Operator)(base)
    table.rule(Add)(special)
    network = small_network()
    assert table.find(network.operator("conv1")) is base
    assert table.find(network.operator("add#0")) is special
    assert table.names(Add) == ("default",)


def test_a_branch_that_gets_none_is_not_walked() -> None:
    _, inputs = small()
    network = small_network()
    walked: list[str] = []

    def choose(op: Operator) -> object:
        def rule(op: Operator, relevance: torch.Tensor, values: object) -> tuple[object, ...]:
            walked.append(op.name)
            if isinstance(op, Add):
                return (None, relevance)
            return gradient.find(op)(op, relevance, values)

        return rule

    values = network.run(inputs)
    with torch.no_grad():
        walk(network, values, torch.ones(4, 5, dtype=torch.float64), choose)
    assert "conv2#1" in walked
    assert "conv2" not in walked
    assert "conv1" in walked


def test_relevance_of_named_layers_is_recorded() -> None:
    model, inputs = small()
    trace = Trace(small_network(), inputs)
    target = Weighted(weights_of(trace))
    trace.backward(gradient.find, target, key="gradient", record=["bn1", "fc"])
    assert torch.equal(trace.relevance_at("fc", target, key="gradient"), weights_of(trace))
    hidden = trace.values["conv1"].clone().requires_grad_()
    with torch.enable_grad():
        branch = torch.relu(hidden)
        rest = model.bn2(model.conv2(branch)) + branch
        rest = torch.relu(model.conv2(torch.relu(rest)))
        output = model.fc(model.pool(rest).flatten(1))
    (expected,) = torch.autograd.grad(output, hidden, weights_of(trace))
    found = trace.relevance_at("bn1", target, key="gradient")
    assert relative_error(found, expected) <= 1e-12
    with pytest.raises(LookupError, match="not recorded"):
        trace.relevance_at("conv2", target, key="gradient")


class Pools(nn.Module):
    """Every kind of max-pool, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(4))
        self.volume, self.line = nn.MaxPool3d(2, 1), nn.MaxPool1d(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        image = self.image(inputs)
        return self.line(self.volume(image[:, None]).flatten(2)).flatten(1)


def test_positions_of_maxima_are_found_by_the_run_and_not_by_each_walk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    trace = Trace(Network(Pools(), inputs), inputs)
    pools = [op for op in trace.network.operators if isinstance(op, MaxPool)]
    assert len(pools) == 4
    weights = weights_of(trace)
    expected = gradient_by_autograd(Pools(), inputs, weights)
    alone = {op.name: trace.values[op.name] for op in trace.network.operators}
    found = []
    with_indices = MaxPool.with_indices

    def counted(op: MaxPool, value: Tensor) -> tuple[Tensor, Tensor]:
        found.append(op.name)
        return with_indices(op, value)

    monkeypatch.setattr(MaxPool, "with_indices", counted)
    assert torch.equal(trace.gradient(Weighted(weights)), expected)
    assert found == []
    # values that did not come from a run lack them
    with torch.no_grad():
        walked = walk(trace.network, alone, weights, gradient.find)
    assert torch.equal(walked.relevance, expected)
    assert sorted(found) == sorted(op.name for op in pools)
