"""A trace computes each thing once, and draws the same numbers for a sample in any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from explainers.base import Samples
from explainers.network import Network
from explainers.rules.gradient import gradient
from explainers.targets import Target
from explainers.trace import Trace
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from explainers.operators import Operator


def traced(*, seed: int = 0, namespace: str = "", rows: tuple[int, ...] = (0, 1, 2, 3)) -> Trace:
    """The small network at some of its four images, known by their numbers plus ten."""
    _, inputs = small()
    index = torch.tensor(rows)
    samples = Samples(index + 10, index % 5)
    return Trace(small_network(), inputs[index], samples=samples, seed=seed, namespace=namespace)


def test_forward_and_backward_are_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced()
    runs: list[int] = []
    run = trace.network.run
    monkeypatch.setattr(trace.network, "run", lambda *a, **kw: runs.append(1) or run(*a, **kw))
    assert trace.output.shape == (4, 5)
    assert torch.equal(trace.prediction, trace.output.argmax(1))
    first = trace.gradient(Target.parse("predicted"))
    assert trace.gradient(Target.parse("predicted")) is first
    assert trace.values is trace.values
    assert len(runs) == 1


def test_walks_are_remembered_by_key_and_target() -> None:
    trace = traced()
    walked: list[str] = []

    def choose(op: Operator) -> object:
        walked.append(op.name)
        return gradient.find(op)

    first = trace.backward(choose, Target.parse(0), key="mine")
    n_operators = len(walked)
    assert trace.backward(choose, Target.parse(0), key="mine") is first
    assert len(walked) == n_operators
    trace.backward(choose, Target.parse(1), key="mine")
    assert len(walked) == 2 * n_operators


def test_a_layer_asked_for_later_is_recorded_without_losing_the_first() -> None:
    trace, target = traced(), Target.parse(0)
    trace.backward(gradient.find, target, key="g", record=["fc"])
    trace.backward(gradient.find, target, key="g", record=["conv1"])
    assert trace.relevance_at("fc", target, key="g").shape == (4, 5)
    assert trace.relevance_at("conv1", target, key="g").shape == (4, 6, 8, 8)


def test_the_gradient_of_what_is_selected_is_autograds() -> None:
    model, inputs = small()
    trace, target = traced(), Target.parse("label")
    leaf = inputs.clone().requires_grad_()
    selected = model(leaf).gather(1, trace.samples.label[:, None])
    torch.testing.assert_close(trace.selected(target), selected[:, 0].detach())
    (expected,) = torch.autograd.grad(selected.sum(), leaf)
    torch.testing.assert_close(trace.gradient(target), expected, rtol=1e-10, atol=1e-12)


def test_values_and_gradients_carry_no_autograd_graph() -> None:
    trace = traced()
    gradient_ = trace.gradient(Target.parse(0))
    assert not gradient_.requires_grad
    assert gradient_.is_contiguous()
    assert not any(value.requires_grad for value in trace.values.values())


class Branching(nn.Module):
    """Cannot be exported; changes its input in place."""

    def forward(self, inputs: Tensor) -> Tensor:
        inputs *= 2
        return inputs * inputs if inputs.sum() > 0 else -inputs


def test_an_opaque_network_has_outputs_and_gradients() -> None:
    network = Network(Branching(), torch.ones(2, 3))
    inputs = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 1.0]])
    trace = Trace(network, inputs)
    assert torch.equal(trace.output, 4 * inputs**2)
    found = trace.gradient(Target.parse(1))
    assert torch.equal(found, torch.stack([torch.zeros(2), 8 * inputs[:, 1], torch.zeros(2)], 1))
    assert trace.gradient(Target.parse(1)) is found
    trace.gradient(Target.parse(0))
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        trace.backward(gradient.find, Target.parse(1), key="g")


def test_generators_depend_on_the_sample_and_not_on_the_batch() -> None:
    whole = traced().noise("steps", (2, 3))
    assert whole.shape == (4, 2, 3)
    for rows in ((2,), (3, 0), (1, 1, 2)):
        part = traced(rows=rows).noise("steps", (2, 3))
        assert torch.equal(part, whole[list(rows)])


def test_generators_depend_on_seed_namespace_and_purpose() -> None:
    draws = [
        traced().noise("steps", (4,)),
        traced(seed=1).noise("steps", (4,)),
        traced(namespace="other").noise("steps", (4,)),
        traced().noise("masks", (4,)),
    ]
    for position, draw in enumerate(draws):
        assert all(not torch.equal(draw, other) for other in draws[:position])


def test_uniform_numbers_lie_between_zero_and_one() -> None:
    numbers = traced().uniform("masks", (500,))
    assert float(numbers.min()) >= 0.0
    assert float(numbers.max()) < 1.0
    assert abs(float(numbers.mean()) - 0.5) < 0.05


def test_a_trace_at_other_inputs_keeps_who_the_rows_are() -> None:
    trace = traced()
    rows = torch.tensor([2, 2, 0])
    other = trace.at(trace.inputs[rows] * 0.5, rows)
    assert other.samples.index.tolist() == [12, 12, 10]
    assert torch.equal(other.noise("x", (3,)), trace.noise("x", (3,))[rows])
    assert trace.at(trace.inputs * 0.5).samples is trace.samples
    with pytest.raises(ValueError, match="pass rows="):
        trace.at(trace.inputs[:2])


def test_rows_are_their_numbers_outside_a_data_set() -> None:
    _, inputs = small()
    trace = Trace(small_network(), inputs)
    other = trace.at(inputs[[3]], torch.tensor([3]))
    assert torch.equal(other.noise("x", (3,)), trace.noise("x", (3,))[[3]])


def test_as_many_samples_as_rows_are_needed() -> None:
    _, inputs = small()
    index = torch.arange(3)
    with pytest.raises(ValueError, match="3 samples for a batch of 4"):
        Trace(small_network(), inputs, samples=Samples(index, index))


def test_integers_have_no_gradient() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    tokens = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    trace = Trace(Network(model, tokens), tokens)
    assert trace.output.shape == (2, 2)
    with pytest.raises(TypeError, match="integers have no gradient"):
        trace.gradient(Target.parse(0))
