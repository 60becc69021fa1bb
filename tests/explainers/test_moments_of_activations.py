"""Moments behind activations against sums over a fine grid, which knows no formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from explainers.operators import Activation, Slot, Unary
from tests.explainers.lone_operators import moments_behind

PIECES: list[tuple[Any, ...]] = [
    *(("hardtanh", 0.0, 6.0), ("hardtanh", -1.0, 0.5), ("clamp", -math.inf, 0.5)),
    *(("leaky_relu", 0.1), ("hardswish",), ("hardsigmoid",)),
]
SMOOTH: list[tuple[Any, ...]] = [
    *(("gelu",), ("silu",), ("softplus",), ("mish",)),
]
BROKEN: list[tuple[Any, ...]] = [
    *(("elu", 2.0), ("selu",), ("celu", 2.0), ("sigmoid",), ("tanh",)),
]
MEANS = torch.tensor([[-4.0, -3.0, -0.4, 0.0, 0.3, 2.0, 5.5, 9.0, 0.1]], dtype=torch.float64)
VARIANCES = torch.tensor([[4.0, 1.0, 0.5, 1.0, 2.0, 1e-2, 1.0, 3.0, 4.0]], dtype=torch.float64)


def activation(kind: str, *parameters: Any) -> Activation:
    return Activation(name="f", module_path="", inputs=("x",), kind=kind, parameters=parameters)


def unary(function: Any, *arguments: Any) -> Unary:
    return Unary(
        name="f",
        module_path="",
        inputs=("x",),
        function=function,
        arguments=(Slot(0), *arguments),
    )


def on_a_grid(op: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and expected slope, by a sum over 4,001 places of each Gaussian."""
    places = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    weights = torch.exp(-places.square() / 2)
    weights /= weights.sum()
    at = (MEANS[0][:, None] + VARIANCES[0].sqrt()[:, None] * places).requires_grad_()
    value = op.run(at)
    (slope,) = torch.autograd.grad(value.sum(), at)
    value = value.detach()
    mean = (value * weights).sum(1)
    variance = ((value - mean[:, None]).square() * weights).sum(1)
    return mean, variance, (slope * weights).sum(1)


# the grid is right to 1e-5 beside a kink; 32 nodes of a whole Gaussian are right to 0.5 % of a
# deviation for those of up to 2
@pytest.mark.parametrize(
    ("function", "tolerance"),
    [
        *((function, 1e-4) for function in PIECES),
        *((function, 5e-3) for function in SMOOTH),
        *((function, 1e-4) for function in BROKEN),
    ],
    ids=str,
)
def test_moments_are_those_of_a_gaussian(function: tuple[Any, ...], tolerance: float) -> None:
    op = activation(*function)
    mean, variance = moments_behind(op, MEANS, variance=VARIANCES)
    same, rows = moments_behind(op, MEANS, factor=torch.diag_embed(VARIANCES.sqrt()))
    expected, spread, slope = on_a_grid(op)
    assert ((mean[0] - expected).abs() < tolerance * spread.sqrt() + 1e-9).all()
    assert ((variance[0] - spread).abs() < 2 * tolerance * spread + 1e-9).all()
    torch.testing.assert_close(same, mean)
    gain = rows[0].diagonal() / VARIANCES[0].sqrt()
    # a grid's slope is off by the weight of one place, 2e-3, at a kink
    assert ((gain - slope).abs() < 2e-3 + 2 * tolerance).all()


@pytest.mark.parametrize("function", [*PIECES[:5:2], PIECES[3], SMOOTH[0], *BROKEN[0::3]], ids=str)
def test_derivatives_are_those_of_the_moments(function: tuple[Any, ...]) -> None:
    op = activation(*function)
    leaves = MEANS.clone().requires_grad_(), VARIANCES.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(1, 2, 9, generator=generator, dtype=torch.float64).requires_grad_()

    def of_variance(mean: Tensor, variance: Tensor) -> Any:
        return moments_behind(op, mean, variance=variance)

    def of_factor(mean: Tensor, factor: Tensor) -> Any:
        return moments_behind(op, mean, factor=factor)

    assert torch.autograd.gradcheck(of_variance, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(of_factor, (leaves[0], factor), fast_mode=True)


@pytest.mark.parametrize("function", [*PIECES, *SMOOTH, *BROKEN], ids=str)
def test_no_variance_is_the_plain_function(function: tuple[Any, ...]) -> None:
    op = activation(*function)
    mean = torch.tensor([[-300.0, -3.0, -1.0, 0.0, 0.5, 3.0, 6.0, 300.0]]).requires_grad_()
    nothing = torch.zeros_like(mean).requires_grad_()
    found, variance = moments_behind(op, mean, variance=nothing)
    assert torch.equal(found, op.run(mean))
    assert not variance.any()
    slopes = torch.autograd.grad(found.sum() + variance.sum(), (mean, nothing))
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("function", [*PIECES, *SMOOTH, *BROKEN], ids=str)
def test_large_means_with_little_variance_keep_their_digits(function: tuple[Any, ...]) -> None:
    op = activation(*function)
    mean = torch.tensor([[-300.0, -1.5, 0.25, 3.5, 5.5, 300.0]])
    variance = torch.full_like(mean, 1e-2)
    found, spread = moments_behind(op, mean, variance=variance)
    exact, expected = moments_behind(op, mean.double(), variance=variance.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    # a value of 300 is rounded to 3e-5, a few 1e-4 of the deviation
    torch.testing.assert_close(spread.double(), expected, rtol=2e-3, atol=1e-9)


def test_hardswish_keeps_its_digits_where_much_varies() -> None:
    mean, variance = torch.tensor([[-3000.0, -300.0, -20.0]]), torch.tensor([[1e6, 1e4, 100.0]])
    op = activation("hardswish")
    found, spread = moments_behind(op, mean, variance=variance)
    exact, expected = moments_behind(op, mean.double(), variance=variance.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(spread.double(), expected, rtol=1e-5, atol=0)
    # a straight line from three on, of which a deviation of a thousand sees little else
    line = moments_behind(activation("relu"), mean, variance=variance)[1]
    assert float(spread[0, 0] / line[0, 0]) == pytest.approx(1, abs=1e-2)


def test_relu6_near_its_upper_bound_has_the_known_moments() -> None:
    mean = torch.full((1, 1), 5.5, dtype=torch.float64)
    op = activation("hardtanh", 0.0, 6.0)
    found, variance = moments_behind(op, mean, variance=torch.ones_like(mean))
    # six digits were given to us
    assert float(found) == pytest.approx(5.302203, abs=5e-7)
    assert float(variance) == pytest.approx(0.553441, abs=5e-7)


@pytest.mark.parametrize("function", BROKEN, ids=str)
def test_short_steps_and_kinks_have_their_moments(function: tuple[Any, ...]) -> None:
    op = activation(*function)
    deviation = torch.tensor([[1e-3, 1e-2, 1.0, 10.0, 20.0]])
    found, spread = moments_behind(op, torch.zeros_like(deviation), variance=deviation.square())
    places = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    weights = torch.exp(-places.square() / 2)
    weights /= weights.sum()
    value = op.run(deviation.double().mT * places)
    mean = (value * weights).sum(1)
    expected = ((value - mean[:, None]).square() * weights).sum(1)
    # 20 nodes on either side see a step of a twentieth of a deviation to 0.2 %; the mean of sigmoid
    # near a half is rounded to 6e-8
    assert ((found[0] - mean).abs() < 5e-4 * expected.sqrt()).all()
    assert ((spread[0] - expected).abs() < 5e-3 * expected).all()


def test_powers_and_magnitudes_are_exact() -> None:
    mean, variance = MEANS[:, :3], VARIANCES[:, :3]
    square = unary(torch.ops.aten.pow.Tensor_Scalar, 2)
    found, spread = moments_behind(square, mean, variance=variance)
    torch.testing.assert_close(found, mean**2 + variance)
    torch.testing.assert_close(spread, 4 * mean**2 * variance + 2 * variance**2)
    magnitude = unary(torch.ops.aten.abs.default)
    found, spread = moments_behind(magnitude, mean, variance=variance)
    torch.testing.assert_close(spread + found**2, mean**2 + variance)


@pytest.mark.parametrize(
    "op",
    [
        *(unary(getattr(torch.ops.aten, word).default) for word in ("log", "reciprocal", "sign")),
        *(unary(torch.ops.aten.pow.Tensor_Scalar, exponent) for exponent in (0.5, -1)),
    ],
    ids=lambda op: op.word,
)
def test_functions_without_a_value_everywhere_are_refused(op: Unary) -> None:
    with pytest.raises(NotImplementedError, match=r"'moments' has no rule.*monte_carlo"):
        moments_behind(op, MEANS, variance=VARIANCES)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "gelu"])
def test_how_mean_and_rows_lie_in_memory_changes_nothing(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    factor = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    turned = mean.contiguous(memory_format=torch.channels_last)
    expected = moments_behind(activation(kind), mean, factor=factor)
    for one, other in zip(
        moments_behind(activation(kind), turned, factor=factor), expected, strict=True
    ):
        torch.testing.assert_close(one, other)
