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
    # by the specification: true ones are 1.0299 and 0.4922
    assert float(found) == pytest.approx(1.0300, abs=5e-5)
    assert float(variance) == pytest.approx(0.4647, abs=5e-5)


def test_moments_are_near_those_of_draws() -> None:
    # windows as behind a convolution: means differ by about a deviation; 3 x 3, with margins
    op, shape = POOLS[1]
    mean, variance, _ = given(shape)
    found, spread = moments_behind(op, mean, variance=variance)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(20_000, *mean.shape[1:], generator=generator, dtype=torch.float64)
    values = op.run(mean[0] + variance[0].sqrt() * noise)
    # one per cent of the second moment's root, and draws are off by 0.02 deviations at most
    error = (found[0] - values.mean(0)).abs()
    assert (error < 0.01 * values.square().mean(0).sqrt() + 0.02 * values.std(0)).all()
    ratio = spread[0] / values.var(0)
    # the tree is too narrow: 15 % for four values, and a quarter for the worst of nine
    assert 0.8 < float(ratio.mean()) < 1.0
    assert (ratio > 0.72).all()
    assert (ratio < 1.05).all()


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
