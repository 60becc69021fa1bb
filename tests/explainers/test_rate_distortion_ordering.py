"""Orderings: nested masks of one vector of scores, and their mean distortion."""

import pytest
import torch
from torch import Tensor

from configs.boolean_strings import load
from explainers.network import Network
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.solvers.ordering import Nested, Ordering
from explainers.rate_distortion.solvers.problem import Problems
from explainers.rate_distortion.solvers.spectral import SpectralProjectedGradient
from explainers.rate_distortion.spreads import Mode
from explainers.targets import Target
from explainers.trace import Trace

RATES = (0.25, 0.5, 0.75)


class Weighted:
    """``1/2 sum_i w_i (1 - s_i)^2``: what weighs more is needed first."""

    n_maps = 1

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.n_evaluations = 0

    @property
    def selected(self) -> Tensor:
        return self.weights.new_ones(len(self.weights))

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.n_evaluations += len(rows)
        weights = self.weights[rows].view(masks.shape)
        lost = 1 - masks
        return 0.5 * (weights * lost.square()).flatten(1).sum(1), -weights * lost

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        return self(masks, rows)[0]


def weighted(n_samples: int = 3) -> Weighted:
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(n_samples, 8, generator=generator).argsort(1).double()
    return Weighted(torch.exp(orders))


def at(rates: tuple[float, ...] = RATES, n_samples: int = 3) -> Problems:
    rows = torch.arange(n_samples).repeat_interleave(len(rates))
    rate = torch.tensor(rates, dtype=torch.float64).repeat(n_samples)
    start = rate[:, None, None].expand(-1, 2, 4).clone()
    return Problems(rows, start, None, rate, torch.ones_like(rate))


def test_masks_are_nested_and_have_their_rates() -> None:
    problems = at()
    found = Ordering(12, 8).solve(weighted(), problems)
    masks = found.mask.view(3, 3, 8)
    assert bool((masks.diff(dim=1) >= 0).all())
    torch.testing.assert_close(found.rate, problems.rate)


def test_relevance_orders_values_by_what_they_are_needed_for() -> None:
    distortion = weighted()
    relevance = Ordering(12, 8).solve(distortion, at()).mask.view(3, 3, 8).mean(1)
    heaviest = distortion.weights.topk(6, 1).indices
    # masks of a quarter, a half and three quarters tell pairs of values apart
    pairs = relevance.gather(1, heaviest).view(3, 3, 2).mean(2)
    assert bool((pairs.diff(dim=1) < 0).all())
    assert bool(((relevance >= 0) & (relevance <= 1)).all())


def test_rates_together_are_no_worse_than_the_mean_of_what_they_have_alone() -> None:
    distortion, problems = weighted(), at()
    alone = Ordering(n_steps=12, n_together=1).solve(distortion, problems)
    together = Ordering(n_steps=12, n_together=10).solve(distortion, problems)
    assert bool((together.objective <= alone.objective * (1 + 1e-12)).all())
    assert bool((together.objective < 0.999 * alone.objective).any())


def test_the_objective_is_the_mean_distortion_of_the_masks() -> None:
    distortion, problems = weighted(), at()
    found = Ordering(12, 8).solve(distortion, problems)
    by_sample = found.distortion.view(3, 3).mean(1)
    torch.testing.assert_close(found.objective.view(3, 3)[:, 0], by_sample)
    torch.testing.assert_close(found.distortion, distortion.value(found.mask, problems.rows))


def test_the_gradient_of_scores_is_that_of_finite_differences() -> None:
    nested = Nested(weighted(), at(), 3)
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(3, 2, 4, generator=generator, dtype=torch.float64)
    rows = torch.arange(3)
    _, gradient = nested(scores, rows)
    for place in range(8):
        moved = torch.zeros(8, dtype=torch.float64)
        moved[place] = 1e-6
        step = moved.view(2, 4)
        rise = nested.value(scores + step, rows) - nested.value(scores - step, rows)
        # distortions are some thousand: 1e-12 of that over 2e-6
        torch.testing.assert_close(rise / 2e-6, gradient.flatten(1)[:, place], rtol=1e-5, atol=1e-3)


def test_a_sample_does_not_depend_on_the_others() -> None:
    distortion, problems = weighted(), at()
    whole = Ordering(12, 8).solve(distortion, problems)
    some = torch.tensor([6, 7, 8, 0, 1, 2])
    part = Ordering(12, 8).solve(distortion, problems.at(some))
    torch.testing.assert_close(part.mask, whole.mask[some], rtol=0, atol=1e-9)


@pytest.mark.parametrize("some", [[0, 1, 3, 4, 5], [0, 1, 2, 0, 1, 2, 3, 0, 1]])
def test_samples_with_different_rates_are_refused(some: list[int]) -> None:
    with pytest.raises(ValueError, match="one after the other"):
        Ordering(12, 8).solve(weighted(), at().at(torch.tensor(some)))


def test_an_ordering_without_rates_is_refused() -> None:
    problems = at()
    priced = Problems(problems.rows, problems.start, problems.rate, None, problems.scale)
    with pytest.raises(ValueError, match="several rates"):
        Ordering(12, 8).solve(weighted(), priced)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["diag", "half", "full"])
def test_the_block_of_a_boolean_string_is_needed_first(mode: Mode) -> None:
    string = torch.tensor([[[[float(bit) for bit in "1001011111000000"]]]])
    network = Network(load(), string.repeat(2, 1, 1, 1))
    noise = resolve({"uniform": [0, 1]}, network, mode)
    distortion = AssumedDensity(Trace(network, string), Target.parse(None), noise)
    rate = torch.tensor([1, 2, 3, 4, 5, 6, 8]) / 16
    start = rate.view(-1, 1, 1, 1).expand(-1, 1, 1, 16)
    rows = torch.zeros(7, dtype=torch.int64)
    problems = Problems(rows, start, None, rate, torch.ones(7))
    relevance = Ordering().solve(distortion, problems).mask.view(7, 16).mean(0)
    assert relevance.topk(5).indices.sort().values.tolist() == [5, 6, 7, 8, 9]
    alone = SpectralProjectedGradient().solve(distortion, problems)
    # five values are the block, and nothing else
    torch.testing.assert_close(alone.mask[4, 0, 0, 5:10], torch.ones(5), rtol=0, atol=1e-3)
