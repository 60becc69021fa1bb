"""Rows of a batch that are repeated: values, what is derived of them, and relevance."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainers import Network, Trace
from explainers.composites import find
from explainers.operators import Convolution
from explainers.rules.repeated import Repeated
from explainers.rules.walking import Course
from explainers.targets import Target
from tests.explainers.twins import seeded

pytestmark = pytest.mark.slow

ROWS = torch.tensor([2, 0, 0, 1, 2])


class SequenceFirst(nn.Module):
    """An attention whose sequences come first and whose heads share an axis with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x.transpose(0, 1))
        hidden = hidden + self.attention(hidden, hidden, hidden)[0]
        return self.head(hidden.mean(0))


class Pooled(nn.Module):
    """Convolutions of signed and of nonnegative values, a max-pool and a class token's cousin."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.third, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.max_pool2d(functional.relu(self.first(x)), 2)
        hidden = functional.relu(self.third(self.second(hidden)))
        return self.head(hidden.flatten(2).mean(2))


MODELS = {"sequence_first": (SequenceFirst, (5, 3)), "pooled": (Pooled, (2, 9, 9))}


@functools.cache
def given(name: str) -> tuple[Network, Tensor]:
    build, shape = MODELS[name]
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(3)).double()
    return Network(seeded(build()), inputs), inputs


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_a_batch_with_the_rows(name: str) -> None:
    network, inputs = given(name)
    found = Repeated.of(Trace(network, inputs), ROWS)
    expected = Trace(network, inputs[ROWS]).values
    assert set(found) == set(expected)
    for operator in network.operators:
        # other rows beside it: a product may add up in another order
        torch.testing.assert_close(found[operator.name], expected[operator.name], msg=operator.name)


def test_positions_of_maxima_are_those_of_the_rows() -> None:
    network, inputs = given("pooled")
    found, expected = Repeated.of(Trace(network, inputs), ROWS), Trace(network, inputs[ROWS]).values
    (name,) = (name for name in found if name.endswith(":switches"))
    assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("name", "composite"),
    [
        ("sequence_first", "epsilon_plus"),
        ("pooled", "epsilon_plus_flat"),
        ("pooled", "epsilon_alpha2_beta1"),
        ("pooled", "lrp_z_plus"),
        ("pooled", {"name": "epsilon_gamma_box", "low": -4.0, "high": 4.0}),
    ],
)
def test_relevance_of_rows_is_that_of_a_batch_with_them(
    name: str, composite: str | dict[str, object]
) -> None:
    network, inputs = given(name)
    choose = find(composite).choose(network)
    target = Target.parse(1)
    trace, plain = Trace(network, inputs), Trace(network, inputs[ROWS])
    values = Repeated.of(trace, ROWS)
    source, kept = network.operators[0].name, dict[str, Tensor]()
    start = (trace.cotangent(target) * trace.output)[ROWS]
    course = Course(network, choose, ends=[source], release=values.release)
    for _ in range(2):  # what is derived is not overwritten
        course.carry(values, {network.output_name: start}, {source}, kept)
        expected = plain.backward(choose, target, key="lrp", start=plain.output * start.ne(0))
        torch.testing.assert_close(kept[source], expected, rtol=1e-9, atol=1e-9)


def test_denominators_are_made_once_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = given("pooled")
    trace, source = Trace(network, inputs), network.operators[0].name
    choose = find("lrp_z_plus").choose(network)
    made: list[int] = []
    linear = Convolution.linear

    def counted(op: Convolution, x: Tensor, *arguments: Tensor) -> Tensor:
        made.append(len(x))
        return linear(op, x, *arguments)

    _ = trace.values
    monkeypatch.setattr(Convolution, "linear", counted)
    course = Course(network, choose, ends=[source])
    for rows in (ROWS, torch.tensor([1]), torch.arange(3)):
        values = Repeated.of(trace, rows)
        start = trace.output[rows]
        course.carry(values, {network.output_name: start}, {source}, {})
    assert made == [3, 3, 3]  # three convolutions, for the three rows of the batch


def test_values_keep_their_layout_in_memory() -> None:
    network, inputs = given("pooled")
    values = {"input": inputs.contiguous(memory_format=torch.channels_last)}
    found = Repeated(network, values, ROWS)["input"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, inputs[ROWS])
