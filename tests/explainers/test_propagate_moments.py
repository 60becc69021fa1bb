"""Moments behind networks and operators, against matrices, quadrature and torch-adf."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import torch
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network
from explainers.cut import begun
from explainers.operators import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    Generic,
    Linear,
    LinearMap,
    MatrixProduct,
    Multiply,
    Operator,
    Pad,
    Quotient,
    Slot,
)
from explainers.rules.moments import Form, Moments, moments, tiles
from explainers.rules.moments.carrying import carry
from explainers.rules.moments.rectified import _Rectified

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.slow

aten = torch.ops.aten
# float64 throughout: sums of some hundred products agree to 1e-12
close = functools.partial(torch.testing.assert_close, rtol=1e-11, atol=1e-12)


class Block(nn.Module):
    """A residual block, a concatenation, a gate and pools: what factors must not lose track of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.head = nn.Linear(54, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        first = torch.relu(self.first(inputs))
        second = torch.relu(self.second(first) + first)
        joined = self.norm(torch.cat([first, second], 1))
        logits: Tensor = self.head(self.pool(joined * 0.5 + 1).flatten(1))
        return logits


M = TypeVar("M", bound=nn.Module)


def made(model: M) -> M:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.double().eval()


@functools.cache
def block() -> tuple[Block, Network]:
    model = made(Block())
    return model, Network(model, torch.zeros(1, 1, 5, 5, dtype=torch.float64))


def inputs_of(*shape: int, k: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    return draw(*shape), draw(*shape).square(), draw(shape[0], k, *shape[1:])


def gate(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and slope behind ReLU, by the formulas as they are in the papers."""
    sigma = variance.sqrt()
    z = mean / sigma
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    passing = torch.special.ndtr(z)
    return mean * passing + sigma * density, passing


def matrix_of(function: Callable[[Tensor], Tensor], value: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``W`` and ``b`` of an affine function of one sample."""
    zero = torch.zeros_like(value[:1])
    units = torch.eye(zero.numel(), dtype=value.dtype).reshape(-1, *zero.shape[1:])
    start = function(zero)
    columns = [(function(unit[None]) - start).flatten() for unit in units]
    return torch.stack(columns, 1), start.flatten()


HEADER: dict[str, Any] = {"name": "y", "module_path": "part", "inputs": ("x",)}


def convolution(transposed: bool = False, **changes: Any) -> Convolution:
    torch.manual_seed(3)
    weight = torch.randn(*((2, 3, 3, 2) if transposed else (4, 1, 3, 2)), dtype=torch.float64)
    fields: dict[str, Any] = {
        "stride": (1, 1),
        "padding": (1, 0),
        "dilation": (1, 1),
        "groups": 2 if not transposed else 1,
        "output_padding": (0, 0),
        "bias": torch.randn(3 if transposed else 4, dtype=torch.float64),
    }
    return Convolution(**HEADER, weight=weight, transposed=transposed, **{**fields, **changes})


def pool(form: Any = "window", size: tuple[int, ...] = (3, 2), **changes: Any) -> AveragePool:
    fields: dict[str, Any] = {"stride": (2, 2), "padding": (1, 1)} if form == "window" else {}
    return AveragePool(**HEADER, form=form, size=size, **{**fields, **changes})


def linear_map(function: Any, *arguments: Any) -> LinearMap:
    return LinearMap(**HEADER, function=function, arguments=(Slot(0), *arguments))


LINEAR: dict[str, Operator] = {
    "convolution": convolution(),
    "strided": convolution(stride=(2, 1), dilation=(1, 2), margins=(1, 0, 0, 2)),
    "transposed": convolution(True, stride=(2, 2), output_padding=(1, 0)),
    "linear": Linear(**HEADER, weight=torch.arange(10.0).double().view(2, 5), bias=None),
    "affine": Affine(**HEADER, scale=torch.tensor([-2.0]).double(), shift=torch.ones(1).double()),
    "pool": pool(),
    "pool without padding": pool(padding=(0, 0)),
    "pool of valid": pool(count_include_pad=False),
    "pool divided": pool(divisor=5),
    "pool ceil": pool(ceil_mode=True, stride=(3, 2)),
    "pool ceil of valid": pool(ceil_mode=True, stride=(3, 2), count_include_pad=False),
    "adaptive": pool("adaptive", size=(4, 3)),
    "global": pool("adaptive", size=(1, 1)),
    "mean": pool("mean", dims=(-1, 1), keepdim=False),
    "zeros": Pad(**HEADER, padding=(1, 2, 0, 1), mode="constant", value=0.5),
    "cropped": Pad(**HEADER, padding=(-1, 2, 0, -1), mode="constant", value=0.0),
    "reflect": Pad(**HEADER, padding=(1, 2, 2, 1), mode="reflect", value=0.0),
    "replicate": Pad(**HEADER, padding=(1, 2, 2, 1), mode="replicate", value=0.0),
    "circular": Pad(**HEADER, padding=(1, 2, 2, 1), mode="circular", value=0.0),
    "sum": linear_map(aten.sum.dim_IntList, [1, 3]),
    "cumsum": linear_map(aten.cumsum.default, 2),
    "bilinear": linear_map(aten.upsample_bilinear2d.default, [9, 7], False),
    "bicubic": linear_map(aten.upsample_bicubic2d.default, [4, 8], True),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_square_their_weights_for_variances(name: str) -> None:
    op = LINEAR[name]
    mean, variance, factor = inputs_of(2, 2, 6, 5)
    weight, bias = matrix_of(op.run, mean)
    network = block()[1]
    found = moments.find(op, "variance")(op, (Moments(mean, variance),), Form("variance", network))
    close(found.mean.flatten(1), mean.flatten(1) @ weight.mT + bias)
    close(found.spread.flatten(1), variance.flatten(1) @ weight.square().mT)
    rows = factor.flatten(0, 1).requires_grad_()
    form = Form("factor", network, factor.shape[1])
    found = moments.find(op, "factor")(op, (Moments(mean, rows),), form)
    close(found.spread.flatten(1), rows.flatten(1) @ weight.mT)
    (slope,) = torch.autograd.grad(found.spread.square().sum() / 2, rows)
    close(slope.flatten(1), rows.flatten(1) @ weight.mT @ weight)


@pytest.mark.parametrize(("n_inputs", "kernel", "side"), [(1, 5, 4), (3, 3, 2), (1, 1, 1)])
def test_slopes_of_a_first_convolution_come_tile_by_tile(
    n_inputs: int, kernel: int, side: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, n_inputs, kernel, kernel)
    op = dataclasses.replace(
        convolution(), weight=weight, bias=None, padding=(kernel // 2, 0), groups=1
    )
    inputs = torch.randn(2, n_inputs, 8, 8, requires_grad=True)
    assert tiles.tile_of(op, (8, 8)) == side
    for form, used in ((Form("variance", block()[1]), weight.square()), (_factor_of(1), weight)):
        given = (Moments(inputs.detach(), inputs),)
        spread = moments.find(op, form.kind)(op, given, form).spread
        slope = torch.randn_like(spread)
        (found,) = torch.autograd.grad(spread, inputs, slope)
        # the same products in another order, in single precision
        torch.testing.assert_close(
            found, op.transpose(slope, inputs.detach(), used), rtol=1e-4, atol=1e-4
        )


def _factor_of(n_factors: int) -> Form:
    return Form("factor", block()[1], n_factors)


def test_corners_of_a_pool_divide_by_what_they_average() -> None:
    # torch-adf 22.1.0 gives 1/9 here, and 4 times the variance of a divisor
    op = pool(size=(3, 3), stride=(2, 2), count_include_pad=False)
    ones = torch.ones(1, 1, 5, 5)
    form = Form("variance", block()[1])
    found = moments.find(op, "variance")(op, (Moments(ones, ones),), form)
    assert float(found.spread[0, 0, 0, 0]) == pytest.approx(1 / 4)
    divided = pool(size=(2, 2), padding=(0, 0), divisor=2)
    found = moments.find(divided, "variance")(divided, (Moments(ones, ones),), form)
    assert float(found.spread[0, 0, 0, 0]) == pytest.approx(4 / 2**2)


def test_relu_has_the_moments_of_a_rectified_normal() -> None:
    # z, by trapezoids over the density: only the kink costs some of their accuracy
    mean = torch.linspace(-6, 6, 25, dtype=torch.float64)
    variance = torch.linspace(0.2, 3, 25, dtype=torch.float64)
    grid = torch.linspace(-12, 12, 4_001, dtype=torch.float64)[:, None]
    weight = torch.exp(-(grid**2) / 2) * (24 / 4_000 / math.sqrt(2 * math.pi))
    value = (mean + variance.sqrt() * grid).clamp(min=0)
    expected = (weight * value).sum(0)
    found, spread = _Rectified.apply(mean, variance)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    around = (weight * (value - expected) ** 2).sum(0)
    torch.testing.assert_close(spread, around, rtol=1e-5, atol=1e-6)
    at_zero = _Rectified.apply(torch.zeros(1).double(), torch.ones(1).double())
    assert [round(float(one), 7) for one in at_zero] == [0.3989423, 0.3408451]


def test_relu_is_stable_far_from_zero_in_single_precision() -> None:
    mean = torch.tensor([300.0, -300.0, 1e4, 5.0, -5.0, 0.0])
    variance = torch.tensor([0.01, 0.01, 1e-4, 1.0, 1.0, 1e-20])
    found, spread = _Rectified.apply(mean, variance)
    expected, around = _Rectified.apply(mean.double(), variance.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-15)
    # at five deviations a variance of 1e-8 is the difference of numbers 25 times as large
    torch.testing.assert_close(spread.double(), around, rtol=1e-4, atol=1e-15)
    assert float(spread[0]) == pytest.approx(0.01, rel=1e-6)


def test_derivatives_are_those_of_the_values() -> None:
    mean, variance, factor = inputs_of(1, 1, 5, 5, k=2)
    _, network = block()
    forms = (Form("variance", network), Form("factor", network, 2))
    for form, spread in zip(forms, (variance, factor.flatten(0, 1)), strict=True):

        def carried(mean: Tensor, spread: Tensor, form: Form = form) -> tuple[Tensor, Tensor]:
            found = carry(network, mean, spread, form)[network.output_name]
            return found.mean, found.uncertainty

        leaves = (mean.clone().requires_grad_(), spread.clone().requires_grad_())
        assert torch.autograd.gradcheck(carried, leaves, fast_mode=True)


@pytest.mark.parametrize("kind", [nn.LeakyReLU, nn.ReLU6, nn.Hardswish, nn.ELU, nn.GELU])
def test_gradients_are_finite_where_a_filter_is_dead(kind: type[nn.Module]) -> None:
    sizes = torch.tensor([[1e-20, 1e-19, 1e-17, 1e-14, 1e-10]])
    leaves = sizes.clone().requires_grad_(), sizes.unsqueeze(1).requires_grad_()
    found, rows = explainers.propagate_moments(kind(), leaves[0], factor=leaves[1])
    slopes = torch.autograd.grad(found.sum() + rows.sum(), leaves)
    assert all(slope.isfinite().all() for slope in slopes)


def test_lines_are_stretched_in_both_forms() -> None:
    stretched = made(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Upsample(scale_factor=2, mode="linear")))
    model = nn.Sequential(*stretched, nn.Flatten())
    mean, variance, _ = inputs_of(2, 2, 6)
    _, spread = explainers.propagate_moments(model, mean, variance)
    _, before = explainers.propagate_moments(model, mean, variance, layer="0")
    weight, _ = matrix_of(stretched[1], before)
    close(spread, before.flatten(1) @ weight.square().mT)


def test_derivatives_are_finite_where_nothing_varies() -> None:
    mean = torch.tensor([0.0, 1.0, -1.0, 0.0, 1e-3]).requires_grad_()
    variance = torch.tensor([0.0, 0.0, 0.0, 1e-38, 1e-44]).requires_grad_()
    found, spread = _Rectified.apply(mean, variance)
    (found.sum() + spread.sum()).backward()
    assert mean.grad is not None
    assert variance.grad is not None
    assert mean.grad[:3].tolist() == [0.5, 1.0, 0.0]
    assert variance.grad.isfinite().all()
    assert [round(one, 6) for one in variance.grad[:3].tolist()] == [0.5, 1.0, 0.0]


def direct(model: Block, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a covariance itself, with a matrix for every linear part; slow and obvious."""
    linear = functools.partial(matrix_of, value=torch.zeros(1, 1, 5, 5).double())
    weight, bias = linear(model.first)
    stage = torch.zeros(1, 3, 5, 5).double()
    second, _ = matrix_of(model.second, stage)
    last, shift = matrix_of(
        lambda value: model.head(model.pool(model.norm(value) * 0.5 + 1).flatten(1)),
        torch.zeros(1, 6, 5, 5).double(),
    )
    mean, covariance = weight @ mean + bias, weight @ covariance @ weight.mT
    first, gain = gate(mean, covariance.diagonal())
    of_first = gain[:, None] * covariance * gain
    both = torch.cat([torch.eye(len(first)).double(), second + torch.eye(len(first)).double()])
    mean, covariance = both @ first, both @ of_first @ both.mT
    behind, slope = gate(mean[len(first) :], covariance.diagonal()[len(first) :])
    gains = torch.cat([torch.ones_like(slope), slope])
    joined = torch.cat([mean[: len(first)], behind])
    covariance = gains[:, None] * covariance * gains
    return last @ joined + shift, last @ covariance @ last.mT


def test_factors_and_covariances_equal_a_direct_propagation() -> None:
    model, network = block()
    mean, _, factor = inputs_of(2, 1, 5, 5)
    flat = factor.flatten(2)
    covariance = flat.mT @ flat
    found, rows = explainers.propagate_moments(network, mean, factor=factor)
    full, around = explainers.propagate_moments(network, mean, covariance=covariance)
    assert rows.shape == (2, 7, 4)
    with torch.no_grad():
        expected = [
            direct(model, one.flatten(), spread)
            for one, spread in zip(mean, covariance, strict=True)
        ]
    for row, (of_mean, of_spread) in enumerate(expected):
        torch.testing.assert_close(found[row], of_mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(full[row], of_mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rows[row].mT @ rows[row], of_spread, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(around[row], of_spread, rtol=1e-10, atol=1e-10)


def test_no_variance_gives_the_plain_values_bit_for_bit() -> None:
    _, network = block()
    mean, _, factor = inputs_of(3, 1, 5, 5)
    expected = network(mean)
    found, spread = explainers.propagate_moments(network, mean, torch.zeros_like(mean))
    assert torch.equal(found, expected)
    assert not spread.any()
    found, spread = explainers.propagate_moments(network, mean, factor=torch.zeros_like(factor))
    assert torch.equal(found, expected)
    assert not spread.any()


def test_layers_and_parts_of_a_network_have_their_moments() -> None:
    _, network = block()
    mean, variance, _ = inputs_of(2, 1, 5, 5)
    at_first, of_first = explainers.propagate_moments(network, mean, variance, layer="first")
    weight = block()[0].first.weight
    close(of_first, functional.conv2d(variance, weight.square().detach(), padding=1))
    part = begun(network, ("first",))
    found = explainers.propagate_moments(part, at_first, of_first)
    close(found, explainers.propagate_moments(network, mean, variance))


def test_parts_of_a_network_carry_what_they_take_over_as_certain() -> None:
    model, network = block()
    mean, _, factor = inputs_of(2, 1, 5, 5, k=3)
    values = network.run(mean)
    part = begun(network, ("second",))
    before = network.value("second", values)
    rows = functional.conv2d(factor.flatten(0, 1), model.first.weight.detach(), padding=1)
    carried = {name: values[name] for name in part.carried}
    assert carried
    found = carry(part, before, rows, Form("factor", part, 3), carried=carried)[part.output_name]
    first = values[next(iter(carried))]
    behind, gain = gate(before + first, rows.view(2, 3, 3, 5, 5).square().sum(1))
    joined = torch.cat([first, behind], 1)
    ways = torch.cat([torch.zeros_like(rows), gain.repeat_interleave(3, 0) * rows], 1)
    with torch.no_grad():
        tail = model.norm, model.pool, model.head
        logits = tail[2](tail[1](tail[0](joined) * 0.5 + 1).flatten(1))
        zero = tail[2](tail[1](tail[0](0 * ways) * 0.5 + 1).flatten(1))
        rows_behind = tail[2](tail[1](tail[0](ways) * 0.5 + 1).flatten(1)) - zero
    close(found.mean, logits)
    close(found.spread, rows_behind)
    with pytest.raises(ValueError, match="takes over"):
        explainers.propagate_moments(part, before, before.square())


class Sequence(nn.Module):
    """Tokens first, the batch second, and both on one axis; a gate, and a value added to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs.transpose(0, 1)))
        hidden = hidden * self.gate(hidden).mean(0, keepdim=True)
        places = torch.relu(hidden.reshape(-1, 4)).view_as(hidden)
        logits: Tensor = self.head((places + places).mean(0))
        return logits


def test_factors_follow_rows_wherever_a_model_has_them() -> None:
    model = made(Sequence())
    mean, _, factor = inputs_of(3, 5, 3, k=4)
    found, rows = explainers.propagate_moments(model, mean, factor=factor)
    first, second, head = model.first, model.gate, model.head
    with torch.no_grad():
        for row in range(3):
            means, gain = gate(first(mean[row]), (factor[row] @ first.weight.mT).square().sum(0))
            ways = gain * (factor[row] @ first.weight.mT)
            gates = second(means).mean(0, keepdim=True)
            of_gates = (ways @ second.weight.mT).mean(1, keepdim=True)
            product = means * gates + (ways * of_gates).sum(0)
            ways = ways * gates + means * of_gates
            behind, gain = gate(product, ways.square().sum(0))
            close(found[row], head(2 * behind.mean(0)))
            close(rows[row], (2 * gain * ways).mean(1) @ head.weight.mT)


class ByHand(nn.Module):
    """A convolution, and what is behind it written out in operators of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(3, 4), function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.first(inputs))


@pytest.mark.parametrize(
    ("written", "same"),
    [
        (lambda x: x * torch.sigmoid(x), functional.silu),
        (lambda x: x * functional.relu6(x + 3) / 6, functional.hardswish),
        (lambda x: x + torch.relu(x), lambda x: functional.leaky_relu(2 * x, 0.5)),
    ],
)
def test_functions_written_out_have_the_moments_of_the_named(written: Any, same: Any) -> None:
    mean, variance, factor = inputs_of(2, 3, k=2)
    networks = [Network(made(ByHand(one)), mean) for one in (written, same)]
    spreads: tuple[dict[str, Any], ...] = ({"variance": variance}, {"factor": factor})
    for given in spreads:
        found, expected = (
            explainers.propagate_moments(network, mean, **given) for network in networks
        )
        scale = float(expected[1].abs().amax().sqrt())
        # 32 nodes are right to 1 % beside a kink
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2 * scale)
    nothing = torch.zeros_like(factor)
    found = explainers.propagate_moments(networks[0], mean, factor=nothing)
    assert torch.equal(found[0], networks[0](mean))


def test_constants_of_the_shape_of_an_uncertain_value_are_certain() -> None:
    def widened(value: Tensor) -> Tensor:
        return torch.relu(torch.cat([value, torch.zeros_like(value), torch.ones_like(value)], 1))

    mean, variance, factor = inputs_of(2, 3, k=2)
    model = made(ByHand(widened))
    found, spread = explainers.propagate_moments(model, mean, variance)
    assert found[:, 4:].tolist() == [[0.0] * 4 + [1.0] * 4] * 2
    assert spread[:, :4].all()
    assert not spread[:, 4:].any()
    assert not explainers.propagate_moments(model, mean, factor=factor)[1][..., 4:].any()


def product(kind: type[Operator], *names: str) -> Operator:
    return kind(name="y", module_path="", inputs=names)


def test_products_of_independent_values_are_exact() -> None:
    form = Form("variance", block()[1])
    mean, variance, _ = inputs_of(2, 3, 4)
    other, its_variance = mean.flip(0) + 1, variance.flip(1)
    both = (Moments(mean, variance), Moments(other, its_variance))
    op = product(Multiply, "a", "b")
    found = moments.find(op, "variance")(op, both, form)
    close(found.spread, mean**2 * its_variance + other**2 * variance + variance * its_variance)
    op = product(Multiply, "a", "a")
    found = moments.find(op, "variance")(op, (both[0], both[0]), form)
    close(found.mean, mean**2 + variance)
    close(found.spread, 4 * mean**2 * variance + 2 * variance**2)
    op = product(MatrixProduct, "a", "b")
    certain = Moments(other.mT, None)
    found = moments.find(op, "variance")(op, (both[0], certain), form)
    close(found.spread, variance @ other.mT.square())
    op = Quotient(
        name="y",
        module_path="m",
        inputs=("a", "b"),
        function=aten.div.Tensor,
        arguments=(Slot(0), Slot(1)),
    )
    found = moments.find(op, "variance")(op, (both[0], Moments(other, None)), form)
    close(found.spread, variance / other**2)
    with pytest.raises(NotImplementedError, match=r"Quotient\(aten.div.Tensor\) of a divisor"):
        moments.find(op, "variance")(op, both, form)


def test_a_value_added_to_itself_has_four_times_the_variance() -> None:
    op = product(Add, "a", "a")
    mean, variance, factor = inputs_of(2, 3)
    _, network = block()
    rows = factor.flatten(0, 1)
    found = moments.find(op, "factor")(op, (Moments(mean, rows),) * 2, Form("factor", network, 7))
    close(found.spread, 2 * rows)
    form = Form("variance", network)
    found = moments.find(op, "variance")(op, (Moments(mean, variance),) * 2, form)
    close(found.spread, 4 * variance)


def test_what_has_no_rule_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1), nn.Linear(3, 2)).double()
    mean, variance, _ = inputs_of(2, 3)
    message = r"rule table 'moments' has no rule called 'variance' .*Softmax \(node '1' in '1'\)"
    with pytest.raises(NotImplementedError, match=message):
        explainers.propagate_moments(model, mean, variance)
    op = Generic(**HEADER, function=aten.sort.default, arguments=(Slot(0),))
    with pytest.raises(NotImplementedError, match=r"sort.default.*\(node 'y' in 'part'\)"):
        moments.find(op, "factor")


def test_arguments_that_do_not_fit_are_refused() -> None:
    _, network = block()
    mean, variance, factor = inputs_of(2, 1, 5, 5)
    propagate: Any = functools.partial(explainers.propagate_moments, network, mean)
    with pytest.raises(TypeError, match="got none of them; expected exactly one"):
        propagate()
    with pytest.raises(TypeError, match="got variance, factor; expected exactly one"):
        propagate(variance, factor)
    with pytest.raises(ValueError, match=r"a factor of shape \(2, 1, 5, 5\), expected \(2, 1, 1"):
        propagate(factor=variance)
    with pytest.raises(ValueError, match=r"a covariance of shape .* expected \(2, 25, 25\)"):
        propagate(covariance=factor)
    with pytest.raises(ValueError, match="negative variances"):
        propagate(-variance)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        propagate(variance.float())
    eye = torch.eye(25, dtype=torch.float64).expand(2, 25, 25).clone()
    with pytest.raises(ValueError, match="the eigenvalue -1"):
        propagate(covariance=-eye)
    eye[0, 0, 1] = 1
    with pytest.raises(ValueError, match="not symmetric"):
        propagate(covariance=eye)
    with pytest.raises(NotImplementedError, match=r"factor=.*the result is differentiable"):
        propagate(covariance=eye.requires_grad_())
    with pytest.raises(ValueError, match=r"factor of no rows.*at least one"):
        propagate(factor=factor[:, :0])
    with pytest.raises(TypeError, match=r"variance=0\.1.*torch\.full_like"):
        propagate(0.1)
    with pytest.raises(TypeError, match=r"layer.*expected the name"):
        propagate(variance, layer=["first"])
    for value in (math.nan, math.inf):
        for name, given in {"variance": variance, "factor": factor, "covariance": eye}.items():
            odd = given.detach().clone()
            odd.view(-1)[0] = value
            with pytest.raises(ValueError, match=f"{name} with values that are no finite numbers"):
                propagate(**{name: odd})
        with pytest.raises(ValueError, match="mean with values that are no finite numbers"):
            explainers.propagate_moments(network, mean * value, variance)


class LeNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
            *(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)),
        )


def test_torch_adf_agrees_where_it_is_right() -> None:
    layers = pytest.importorskip("torchadf.nn")
    model = made(LeNet())
    mean, variance, factor = inputs_of(2, 1, 12, 12, k=5)
    flat = factor.flatten(2)
    covariance = flat.mT @ flat
    spreads: dict[str, tuple[Tensor, dict[str, Any]]] = {
        "diag": (variance, {"variance": variance}),
        "half": (factor.movedim(1, -1), {"factor": factor}),
        "full": (covariance.view(2, *mean.shape[1:] * 2), {"covariance": covariance}),
    }
    for mode, (spread, given) in spreads.items():
        found, around = explainers.propagate_moments(model, mean, **given)
        with torch.no_grad():
            of_mean, of_spread = _torch_adf(layers, model, mode)(mean, spread)
        around = around.movedim(1, -1) if mode == "half" else around
        # it adds 1e-7 to every variance
        torch.testing.assert_close(found, of_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(around, of_spread, rtol=1e-5, atol=1e-6)


def _torch_adf(layers: Any, model: nn.Module, mode: str) -> nn.Module:
    parts: list[nn.Module] = []
    for part in model.children():
        if isinstance(part, nn.Conv2d):
            sizes = (part.in_channels, part.out_channels, part.kernel_size[0])
            made_of = layers.Conv2d(*sizes, padding=part.padding[0], mode=mode)
        elif isinstance(part, nn.Linear):
            made_of = layers.Linear(part.in_features, part.out_features, mode=mode)
        elif isinstance(part, nn.AvgPool2d):
            made_of = layers.AvgPool2d(part.kernel_size, mode=mode)
        else:
            made_of = getattr(layers, type(part).__name__)(mode=mode)
        made_of.load_state_dict(part.state_dict())
        parts.append(made_of.double())
    sequence: nn.Module = layers.Sequential(*parts)
    return sequence


def sampled(
    model: nn.Module, mean: Tensor, variance: Tensor, n_draws: int
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(n_draws, *mean.shape[1:], generator=generator, dtype=mean.dtype)
    with torch.no_grad():
        values = model(mean + variance.sqrt() * noise)
    return values.mean(0), values.var(0)


def test_variances_are_exact_layer_by_layer() -> None:
    model = made(LeNet())
    mean, variance, _ = inputs_of(1, 1, 12, 12)
    for position, layer in enumerate(model.children()):
        alone = nn.Sequential(layer, nn.Flatten())
        found, spread = explainers.propagate_moments(alone, mean, variance, layer="0")
        of_mean, of_spread = sampled(layer, mean, variance, 20_000)
        # a variance of 20,000 draws is off by 1 %, the mean by less
        assert float((found[0] - of_mean).norm() / of_mean.norm()) < 0.02, position
        assert float((spread[0] - of_spread).norm() / of_spread.norm()) < 0.03, position
        mean, variance = found, spread
