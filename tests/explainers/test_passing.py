"""Faster passes: narrow products, layouts and compilation, against plain passes and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import explainers
from explainers import Network, Target, Trace, explaining
from explainers.passing import CountedProducts, HalfProducts, Passing, passed

if TYPE_CHECKING:
    from collections.abc import Callable

HALF = Passing("bfloat16")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 2 * 2, 5),
    ).eval()  # fmt: skip


class Gated(nn.Module):
    """Branches on its values, so that nobody can read it as a program."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        doubled = images * 2
        if float(images.detach().sum()) > 0:
            return self.inner(doubled)
        return self.inner(doubled + 1)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network(images: torch.Tensor) -> Network:
    return Network(model(), images)


def rounded(value: torch.Tensor) -> torch.Tensor:
    return value.bfloat16().float()


def test_a_product_is_that_of_rounded_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(7, 7, generator=generator) for _ in range(2))
    with HalfProducts():
        found = [left @ right, torch.mm(left, right), torch.einsum("ij,jk->ik", left, right)]
        found.append(torch.ops.aten.mm.default(left, right))
    # the sum of products of bfloat16 factors is exact in float64; then it is rounded once
    exact = rounded((rounded(left).double() @ rounded(right).double()).float())
    for each in found:
        assert each.dtype == torch.float32
        torch.testing.assert_close(each, exact, rtol=2**-7, atol=1e-6)
        assert torch.equal(each, rounded(each))


def test_what_is_no_product_and_what_is_double_stays_as_it_is() -> None:
    value = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    with HalfProducts():
        assert torch.equal(value.exp() * value, torch.exp(value) * value)
        assert torch.equal(value.double() @ value.double(), (value.double() @ value.double()))
        assert (value.double() @ value.double()).dtype == torch.float64


def test_passes_are_narrow_and_values_between_them_are_float32(
    network: Network, images: torch.Tensor
) -> None:
    half = passed(network, HALF)
    values = half.run(images)
    assert {value.dtype for value in values.values()} <= {torch.float32, torch.int64}
    found, expected = half(images), network(images)
    assert not torch.equal(found, expected)
    # 2**-8 for each of six roundings (factors and sums of three layers), and some room
    assert (found - expected).norm() < 6 * 2**-8 * 2 * expected.norm()
    assert torch.equal(values[half.output_name], found)


@pytest.mark.parametrize("method", ["gradient", "lrp", "integrated_gradients", "occlusion"])
def test_maps_are_near_those_of_float32_and_not_the_same(
    network: Network, images: torch.Tensor, method: str
) -> None:
    parameters = {"occlusion": {"window": 4}}.get(method, {})
    explainer = explainers.build(method, **parameters)
    target = Target.parse("predicted")
    maps = [
        explaining.explained(explainer, Trace(each, images), target).relevance
        for each in (passed(network, HALF), network)
    ]
    assert maps[0].dtype == torch.float32
    difference = (maps[0] - maps[1]).norm() / maps[1].norm()
    assert 0 < difference < 0.1


def test_an_opaque_network_has_a_gradient_through_narrow_products(images: torch.Tensor) -> None:
    network = Network(Gated(), images)
    assert not network.is_program
    found = Trace(passed(network, HALF), images).gradient(Target.parse(1))
    expected = Trace(network, images).gradient(Target.parse(1))
    assert 0 < (found - expected).norm() / expected.norm() < 0.1


def test_parts_and_other_sizes_of_a_network_pass_as_it_does(
    network: Network, images: torch.Tensor
) -> None:
    half = passed(network, HALF)
    part = Trace(half, images).starting_at("2")
    assert part.network.passing == HALF
    assert torch.equal(part.output, half(images))
    assert network.passing == Passing()


def test_weights_and_values_are_channels_last(network: Network, images: torch.Tensor) -> None:
    last = passed(network, Passing(is_channels_last=True))
    weights = [op.weight for op in last.operators if hasattr(op, "weight") and op.weight.ndim == 4]
    assert weights
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in weights)
    torch.testing.assert_close(last(images), network(images))


class Counting:
    """A backend that compiles nothing and counts how often it is asked to."""

    def __init__(self) -> None:
        self.n_compiled = 0

    def __call__(self, graph: Any, example: Any) -> Callable[..., Any]:
        self.n_compiled += 1
        return graph.forward


@pytest.mark.slow
def test_a_compiled_network_takes_batches_of_any_size(
    network: Network, images: torch.Tensor
) -> None:
    backend = Counting()
    plain = passed(network, HALF)
    compiled = passed(network, Passing("bfloat16", compiler=backend))
    for n_rows in (4, 3, 7, 1, 6):
        rows = images[torch.arange(n_rows) % 4]
        torch.testing.assert_close(compiled(rows), plain(rows))
    # one for any size, and one for a row alone, which torch takes for a size of its own
    assert 1 <= backend.n_compiled <= 2


@pytest.mark.slow
# torch looks whether values of a graph have a gradient, and hides the warning from users alone
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_opaque_network_has_the_same_gradient(images: torch.Tensor) -> None:
    network = Network(Gated(), images)
    compiled = passed(network, Passing(compiler="eager"))
    for rows in (images, images[:3]):
        found = Trace(compiled, rows).gradient(Target.parse(1))
        torch.testing.assert_close(found, Trace(network, rows).gradient(Target.parse(1)))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.attention(values, values, values)[0].flatten(1)


def test_products_inside_an_attention_are_narrow_too() -> None:
    model, values = Attending().eval(), torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = model(values)
        with CountedProducts() as half:
            found = model(values)
    # of queries, keys and values at once; of the heads, or the two of these; of the outputs
    assert half.n_narrowed >= 3
    assert not half.whole
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).norm()) < 0.05 * float(expected.norm())


def test_a_recurrent_module_is_left_as_it_is_and_named() -> None:
    torch.manual_seed(0)
    model, values = nn.LSTM(8, 4, batch_first=True), torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = model(values)[0]
        with CountedProducts() as half:
            found = model(values)[0]
    assert torch.equal(found, expected)
    assert (half.n_narrowed, half.whole) == (0, {"lstm"})
