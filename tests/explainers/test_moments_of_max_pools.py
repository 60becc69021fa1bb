"""Moments behind max-pool against draws, and what must hold of them exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explainers.operators import MaxPool
from tests.explainers.lone_operators import moments_behind


def pool(size: tuple[int, ...], **geometry: Any) -> MaxPool:
    """The operator, with torch's defaults."""
    ones = (1,) * len(size)
    plain = {"stride": size, "padding": (0,) * len(size), "dilation": ones} | geometry
    return MaxPool(name="pool", module_path="", inputs=("x",), size=size, **plain)


POOLS: list[tuple[MaxPool, tuple[int, ...]]] = [
    (pool((2, 2), stride=(2, 2)), (2, 4, 6)),
    (pool((3, 3), stride=(2, 2), padding=(1, 1)), (2, 5, 6)),
    (pool((3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True), (1, 6, 6)),
    (pool((1, 2), stride=(2, 1), padding=(0, 0), dilation=(1, 3)), (2, 5, 6)),
    (pool((3, 2), is_adaptive=True), (1, 7, 5)),
    (pool((3,), stride=(2,), padding=(1,)), (2, 9)),
    (pool((2, 2, 2)), (1, 2, 4, 2)),
]


def given(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and factor, seeded."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    variance = torch.rand(2, *shape, generator=generator, dtype=torch.float64) + 0.2
    factor = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64) / 2
    return mean, variance, factor


def window_of_four(mean: Tensor, **spread: Tensor) -> tuple[Tensor, Tensor]:
    return moments_behind(POOLS[0][0], mean, **spread)


def test_the_largest_of_four_alike_has_the_known_moments() -> None:
    mean = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    found, variance = window_of_four(mean, variance=torch.ones_like(mean))
    # one after the other; true ones are 1.0294 and 0.4917
    assert float(found) == pytest.approx(1.0310, abs=5e-5)
    assert float(variance) == pytest.approx(0.4702, abs=5e-5)


def moments_by_integration(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Of the largest in each row of independent values: P[max < x] is the product of theirs."""
    deviation = variance.sqrt()
    low = (mean - 8 * deviation).amin(1, keepdim=True)
    span = (mean + 8 * deviation).amax(1, keepdim=True) - low
    at = torch.linspace(0, 1, 2001, dtype=mean.dtype)[:, None, None] * span
    beyond = 1 - torch.special.ndtr((low + at - mean) / deviation).prod(2, keepdim=True)
    first = torch.trapezoid(beyond, at, dim=0)
    second = torch.trapezoid(2 * at * beyond, at, dim=0)
    return (low + first)[:, 0], (second - first.square())[:, 0]


@pytest.mark.parametrize("size", [2, 3])
def test_moments_of_every_window_are_near_the_true_ones(size: int) -> None:
    # means a deviation apart, as behind a convolution, and variances thirty times as large as
    # others, as behind ReLU
    generator = torch.Generator().manual_seed(0)
    mean = 0.8 * torch.randn(100, 1, size, size, generator=generator, dtype=torch.float64)
    variance = 0.05 + 1.5 * torch.rand(mean.shape, generator=generator, dtype=torch.float64)
    found, spread = moments_behind(pool((size, size)), mean, variance=variance)
    true, true_variance = moments_by_integration(mean.flatten(1), variance.flatten(1))
    error = (found.flatten() - true) / true_variance.sqrt()
    assert error.abs().max() < 0.02
    # in place order, or in a tree, variances are up to a half too small
    ratio = spread.flatten() / true_variance
    assert ratio.min() > 0.8
    assert ratio.max() < 1.01


def test_rows_are_weighed_by_the_chances_to_be_the_largest() -> None:
    # Stein: the covariance of the largest with what the rows multiply
    generator = torch.Generator().manual_seed(0)
    mean = 0.8 * torch.randn(12, 9, generator=generator, dtype=torch.float64)
    width = torch.rand(12, 9, generator=generator, dtype=torch.float64) + 0.1
    rows = torch.randn(12, 4, 9, generator=generator, dtype=torch.float64) / 2 * width[:, None]
    normal = torch.randn(5_000, 1, 4, generator=generator, dtype=torch.float64)
    normal = torch.cat([normal, -normal])
    wins = (mean + (normal[..., None] * rows).sum(2)).argmax(2)
    true = (rows * torch.nn.functional.one_hot(wins, 9).double().mean(0)[:, None]).sum(2)
    _, made = moments_behind(pool((3, 3)), mean.view(12, 1, 3, 3), factor=rows.view(12, 4, 1, 3, 3))
    error = (made.flatten(1) - true).square().sum(1) / true.square().sum(1)
    # in a tree in place order it is 0.27; chances from draws are off by 0.005
    assert error.mean().sqrt() < 0.13


def test_windows_of_many_values_are_ordered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, variance, factor = given((1, 4, 6))
    variance = variance.round(decimals=1)  # some are equal
    op = pool((2, 3))
    spreads: list[dict[str, Tensor]] = [{"variance": variance}, {"factor": factor}]
    counted = [moments_behind(op, mean, **spread) for spread in spreads]
    monkeypatch.setattr("explainers.rules.moments.maxima._MANY", 1)
    for spread, expected in zip(spreads, counted, strict=True):
        for one, other in zip(moments_behind(op, mean, **spread), expected, strict=True):
            assert torch.equal(one, other)


def test_factors_know_how_values_of_a_window_vary_together() -> None:
    mean = torch.tensor([[[[0.0, -0.5], [0.3, 0.1]]]], dtype=torch.float64)
    together = torch.ones(1, 1, 1, 2, 2, dtype=torch.float64)
    found, rows = window_of_four(mean, factor=together)
    # all move by the same, so that the largest stays the largest
    assert float(found) == pytest.approx(0.3)
    assert rows.flatten().tolist() == [1.0]
    found, _ = window_of_four(mean, factor=torch.eye(4, dtype=torch.float64).view(1, 4, 1, 2, 2))
    apart, _ = window_of_four(mean, variance=torch.ones_like(mean))
    torch.testing.assert_close(found, apart)


@pytest.mark.parametrize(("op", "shape"), POOLS)
def test_no_variance_is_the_plain_pool_ties_included(op: MaxPool, shape: tuple[int, ...]) -> None:
    mean, variance, factor = given(shape)
    spreads: list[dict[str, Tensor]] = [{"variance": 0 * variance}, {"factor": 0 * factor}]
    for spread in spreads:
        leaf = mean.round().requires_grad_()
        (uncertain,) = spread.values()
        found, made = moments_behind(
            op, leaf, **{name: value.requires_grad_() for name, value in spread.items()}
        )
        plain = op.run(leaf)
        assert torch.equal(found, plain)
        assert not made.any()
        slope, of_spread = torch.autograd.grad(found.sum() + made.sum(), (leaf, uncertain))
        assert torch.equal(slope, torch.autograd.grad(plain.sum(), leaf)[0])
        assert of_spread.isfinite().all()


@pytest.mark.parametrize(("op", "shape"), [POOLS[1], POOLS[4]])
def test_derivatives_are_those_of_the_moments(op: MaxPool, shape: tuple[int, ...]) -> None:
    mean, variance, factor = given(shape)

    def of_variance(mean: Tensor, variance: Tensor) -> Any:
        return moments_behind(op, mean, variance=variance)

    def of_factor(mean: Tensor, factor: Tensor) -> Any:
        return moments_behind(op, mean, factor=factor)

    for spread, function in ((variance, of_variance), (factor, of_factor)):
        leaves = mean.clone().requires_grad_(), spread.requires_grad_()
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    op, shape = POOLS[1]
    mean, _, factor = given(shape)

    def explained() -> tuple[Tensor, ...]:
        leaves = mean.clone().requires_grad_(), factor.clone().requires_grad_()
        found, rows = moments_behind(op, leaves[0], factor=leaves[1])
        slopes = torch.autograd.grad(found.sum() + rows.square().sum(), leaves)
        return found, rows, *slopes

    whole = explained()
    monkeypatch.setattr("explainers.rules.moments.windows._CHUNK", 1)
    for one, other in zip(whole, explained(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


def test_only_a_smooth_form_follows_variances_that_cross_one_another() -> None:
    op, mean = POOLS[0][0], torch.tensor([[[[0.3, -0.2], [0.0, 0.5]]]], dtype=torch.float64)
    below, above = (
        torch.tensor([[[[1.0, 0.5 + tiny], [0.2, 0.5 - tiny]]]], dtype=torch.float64)
        for tiny in (-1e-9, 1e-9)
    )
    steps = []
    for is_smooth in (False, True):
        first, second = (
            moments_behind(op, mean, variance=one, is_smooth=is_smooth) for one in (below, above)
        )
        steps.append(max(float((a - b).abs()) for a, b in zip(first, second, strict=True)))
    assert steps[0] > 1e-4
    assert steps[1] < 1e-8  # of slopes around one


@pytest.mark.parametrize("is_factor", [False, True])
def test_a_smooth_form_has_the_slopes_of_its_moments_and_the_plain_pool(*, is_factor: bool) -> None:
    op, shape = POOLS[1]
    mean, variance, factor = given(shape)
    kind, spread = ("factor", factor) if is_factor else ("variance", variance)
    leaves = mean.requires_grad_(), spread.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda mean, spread: moments_behind(op, mean, **{kind: spread}, is_smooth=True),
        leaves,
        fast_mode=True,
    )
    ties = mean.detach().round()
    found, none = moments_behind(op, ties, **{kind: torch.zeros_like(spread)}, is_smooth=True)
    assert torch.equal(found, op.run(ties))
    assert not none.any()
