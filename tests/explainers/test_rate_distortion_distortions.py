"""Distortions: by moments, by draws, and verified."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from explainers import Network, Target, Trace
from explainers.base import Samples
from explainers.inputs.sources import start_points
from explainers.rate_distortion import budgets, sampled
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.sampled import Sampled
from explainers.rate_distortion.verifying import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.noise import Noise

# sums of doubles in another order
EXACT = {"rtol": 1e-11, "atol": 1e-13}
ROWS = torch.tensor([0, 2, 2, 1, 0])


class Two(nn.Module):
    """A picture, and numbers that are added to what is seen in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side, self.head = nn.Conv2d(2, 3, 3), nn.Linear(4, 3), nn.Linear(12, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        seen = self.conv(image).relu() + self.side(numbers)[:, :, None, None]
        return self.head(seen.relu().flatten(1))


class Opaque(Two):
    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return super().forward(image, numbers if numbers.sum() < 99 else -numbers)


@functools.cache
def networks() -> tuple[Two, Network, Network, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model, opaque = Two().double(), Opaque().double()
    opaque.load_state_dict(model.state_dict())
    inputs = torch.randn(3, 2, 4, 4).double(), torch.randn(3, 4).double()
    return model, Network(model, inputs), Network(opaque, inputs), inputs


def trace_of(start: str, *, is_program: bool = True) -> Trace:
    """Return a part of the network: behind the picture, both inputs packed, or the numbers."""
    _, program, opaque, inputs = networks()
    trace = Trace(program if is_program else opaque, inputs, seed=1)
    image, numbers = start_points(trace.network)
    parts = {"image": image, "numbers": numbers, "both": (image, numbers)}
    return trace.starting_at(parts[start])


def random(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def noise_for(trace: Trace, mode: Any) -> Noise:
    shape = trace.network.input_shape
    factor = random(3, *shape) - 0.5
    flat = factor.flatten(1)
    covariance = flat.T @ flat + 0.1 * torch.eye(flat.shape[1])
    moments = {
        "diag": {"mean": random(*shape), "variance": 0.3},
        "half": {"mean": random(*shape), "factor": factor},
        "full": {"mean": random(*shape), "covariance": covariance},
    }
    return resolve(moments[mode], trace.network, mode)


def masks_for(trace: Trace, rows: Tensor = ROWS) -> Tensor:
    return random(len(rows), *trace.network.input_shape)


def covariance_of(noise: Noise) -> Tensor:
    flat = noise.spread.flatten(0 if noise.mode == "diag" else 1)
    return torch.diag(flat) if noise.mode == "diag" else flat.T @ flat


def slope(distortion: Distortion, masks: Tensor, rows: Tensor, along: Tensor) -> Tensor:
    """Return the central difference quotient in a direction."""
    step = 1e-5
    ahead, behind = (distortion.value(masks + sign * step * along, rows) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


LINEAR = Target.parse({"layer": "side", "unit": 1})


def linear_distortion(trace: Trace, noise: Noise, masks: Tensor) -> Tensor:
    """Return ``1/2 ((w (1-s) (m-x))^2 + w (1-s) C (1-s) w)`` of the linear layer `LINEAR`."""
    weights = networks()[0].side.weight[1].detach() * (1 - masks)
    bias = (weights * (noise.mean - trace.inputs[ROWS])).sum(1)
    return 0.5 * (bias**2 + torch.einsum("ri,ij,rj->r", weights, covariance_of(noise), weights))


@pytest.mark.parametrize("mode", ["diag", "half", "full"])
def test_assumed_density_is_exact_for_a_linear_network(mode: Any) -> None:
    trace = trace_of("numbers")
    noise, masks = noise_for(trace, mode), masks_for(trace)
    found, _ = AssumedDensity(trace, LINEAR, noise)(masks, ROWS)
    torch.testing.assert_close(found, linear_distortion(trace, noise, masks), **EXACT)


@pytest.mark.parametrize("mode", ["diag", "half", "full"])
def test_verified_distortions_are_off_by_their_standard_error(mode: Any) -> None:
    trace = trace_of("numbers")
    noise, masks = noise_for(trace, mode), masks_for(trace)
    found, error = verify(trace, LINEAR, noise, masks, ROWS, 3000)
    expected = linear_distortion(trace, noise, masks)
    # half of a shifted Gaussian's square: variances v of the values, e^2 of their mean's bias
    weights = networks()[0].side.weight[1].detach() * (1 - masks)
    variance = torch.einsum("ri,ij,rj->r", weights, covariance_of(noise), weights)
    bias_square = 2 * expected - variance
    exact_error = ((variance**2 / 2 + bias_square * variance) / 3000).sqrt()
    # fourth moments of 3,000 draws are known to some 5 %
    torch.testing.assert_close(error, exact_error, rtol=0.2, atol=0)
    assert ((found - expected).abs() < 4 * error).all()
    once, no_error = verify(trace, LINEAR, noise, masks, ROWS, 1)
    assert once.isfinite().all()
    assert no_error.isnan().all()


@pytest.mark.parametrize("mode", ["diag", "half"])
@pytest.mark.parametrize("start", ["image", "both"])
def test_gradients_of_assumed_density_are_difference_quotients(start: str, mode: Any) -> None:
    trace = trace_of(start)
    distortion = AssumedDensity(trace, Target.parse([0, 1, 2]), noise_for(trace, mode))
    masks = masks_for(trace)
    along = torch.cos(1e3 * masks)
    value, gradient = distortion(masks, ROWS)
    assert not value.requires_grad
    assert not gradient.requires_grad
    torch.testing.assert_close(value, distortion.value(masks, ROWS), **EXACT)
    expected = slope(distortion, masks, ROWS, along)
    # a step of 1e-5 leaves 1e-10 of the third derivative, and 1e-11 of rounding
    torch.testing.assert_close((gradient * along).flatten(1).sum(1), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("is_program", [True, False])
def test_gradients_of_draws_are_difference_quotients(is_program: bool) -> None:
    trace = trace_of("both", is_program=is_program)
    distortion = Sampled(trace, Target.parse([0, 1, 2]), noise_for(trace, "half"), 7)
    masks = masks_for(trace)
    along = torch.cos(1e3 * masks)
    value, gradient = distortion(masks, ROWS)
    torch.testing.assert_close(value, distortion.value(masks, ROWS), **EXACT)
    expected = slope(distortion, masks, ROWS, along)
    # between its kinks, which no draw is close to here, the network is linear
    torch.testing.assert_close((gradient * along).flatten(1).sum(1), expected, rtol=1e-6, atol=1e-8)


def test_an_opaque_network_is_sampled_as_its_program() -> None:
    found = []
    for is_program in (True, False):
        trace = trace_of("image", is_program=is_program)
        noise = noise_for(trace, "diag")
        distortion = Sampled(trace, Target.parse(None), noise, 5)
        masks = masks_for(trace)
        found.append((*distortion(masks, ROWS), *verify(trace, Target(), noise, masks, ROWS, 40)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def made(kind: str, trace: Trace) -> Distortion:
    noise = noise_for(trace, "half")
    if kind == "assumed":
        return AssumedDensity(trace, Target(), noise)
    return Sampled(trace, Target(), noise, 6)


@pytest.mark.parametrize("kind", ["assumed", "sampled"])
def test_rows_do_not_depend_on_other_rows_nor_on_how_many_go_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = trace_of("image")
    distortion, masks = made(kind, trace), masks_for(trace)
    values, gradients = distortion(masks, ROWS)
    turned, turned_gradients = distortion(masks.flip(0), ROWS.flip(0))
    torch.testing.assert_close(turned.flip(0), values, **EXACT)
    torch.testing.assert_close(turned_gradients.flip(0), gradients, **EXACT)
    alone, _ = distortion(masks[1:2], ROWS[1:2])
    torch.testing.assert_close(alone, values[1:2], **EXACT)
    # no memory to speak of: a draw at a time, and nothing is kept
    monkeypatch.setattr(budgets, "CPU_BYTES", 1)
    monkeypatch.setattr(sampled, "KEPT_BYTES", 0)
    small = made(kind, trace)
    found, found_gradients = small(masks, ROWS)
    torch.testing.assert_close(found, values, **EXACT)
    torch.testing.assert_close(small.value(masks, ROWS), values, **EXACT)
    torch.testing.assert_close(found_gradients, gradients, **EXACT)
    assert [len(part) for part in small(masks[:0], ROWS[:0])] == [0, 0]


@pytest.mark.parametrize("kind", ["assumed", "sampled"])
def test_fewer_rows_go_at_once_where_memory_is_short(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = trace_of("image")
    distortion, masks = made(kind, trace), masks_for(trace)
    expected = distortion.value(masks, ROWS)
    plain = budgets.Budget.kept
    attempts: list[int] = []

    def short(budget: Any, run: Callable[[], Tensor]) -> Tensor:
        def once() -> Tensor:
            attempts.append(budget.n_rows)
            if budget.n_rows > 2:
                raise torch.OutOfMemoryError("none left")
            return run()

        return plain(budget, once)

    monkeypatch.setattr(budgets.Budget, "kept", short)
    torch.testing.assert_close(distortion.value(masks, ROWS), expected, **EXACT)
    assert attempts[-1] <= 2 < attempts[-2]


def test_draws_are_the_samples_own_in_every_batch_and_fresh_where_they_verify() -> None:
    _, program, _, inputs = networks()
    some, rows = torch.tensor([2, 0]), torch.tensor([0, 1])
    index = torch.tensor([11, 12, 13])

    def of(chosen: Tensor, make: Callable[[Trace, Noise], Any]) -> Any:
        samples = Samples(index[chosen], torch.full_like(chosen, -1))
        parts = (inputs[0][chosen], inputs[1][chosen])
        trace = Trace(program, parts, samples=samples).starting_at(start_points(program)[0])
        return make(trace, noise_for(trace, "half"))

    masks = random(2, 2, 4, 4)
    every = torch.arange(3)
    whole = of(every, lambda trace, noise: Sampled(trace, Target(), noise, 6))
    part = of(some, lambda trace, noise: Sampled(trace, Target(), noise, 6))
    torch.testing.assert_close(part.value(masks, rows), whole.value(masks, some), **EXACT)
    assert torch.equal(part.value(masks, rows), part.value(masks, rows))
    fresh, _ = of(some, lambda trace, noise: verify(trace, Target(), noise, masks, rows, 6))
    again, _ = of(every, lambda trace, noise: verify(trace, Target(), noise, masks, some, 6))
    torch.testing.assert_close(fresh, again, **EXACT)
    assert not torch.isclose(fresh, part.value(masks, rows)).any()


def test_a_mask_of_ones_has_no_distortion_and_no_gradient() -> None:
    trace = trace_of("image")
    ones = torch.ones(5, 2, 4, 4).double()
    for distortion in (made("assumed", trace), made("sampled", trace)):
        value, gradient = distortion(ones, ROWS)
        assert value.abs().max() < 1e-28
        assert gradient.abs().max() < 1e-14
    selected = made("assumed", trace).selected
    torch.testing.assert_close(selected, trace.selected(Target()), **EXACT)


@pytest.mark.parametrize("mode", ["diag", "half"])
def test_gradients_are_finite_where_nothing_or_nearly_nothing_varies(mode: Any) -> None:
    _, program, _, inputs = networks()
    # values before ReLU so large that over the least variance they are infinite
    trace = Trace(program, (50 * inputs[0], inputs[1])).starting_at(start_points(program)[0])
    masks = (random(5, 2, 4, 4) < 0.5).double()
    masks[:2, :, :, :3] = 1
    masks[2] = 1
    masks[2, 0, 0, 0] = 1 - 1e-16
    value, gradient = AssumedDensity(trace, Target(), noise_for(trace, mode))(masks, ROWS)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_gradients_are_found_in_inference_mode() -> None:
    trace = trace_of("both")
    distortion, masks = made("assumed", trace), masks_for(trace)
    _, gradient = distortion(masks, ROWS)
    with torch.inference_mode():
        _, found = distortion(masks.clone(), ROWS)
    torch.testing.assert_close(found, gradient, **EXACT)


def test_masks_and_noise_of_another_input_are_refused() -> None:
    image, both = trace_of("image"), trace_of("both")
    with pytest.raises(ValueError, match="one for each row, shaped as the inputs"):
        made("sampled", image).value(masks_for(image), ROWS[:3])
    with pytest.raises(ValueError, match=r"resolve\(spec, trace.network\)"):
        AssumedDensity(image, Target(), noise_for(both, "diag"))
    with pytest.raises(NotImplementedError, match="cannot be read as a program"):
        made("assumed", trace_of("image", is_program=False))
