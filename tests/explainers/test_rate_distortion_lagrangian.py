"""Solvers of distortion with a price of the rate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.boolean_strings import load
from explainers.network import Network
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.solvers.adam import Adam
from explainers.rate_distortion.solvers.blocks import Blocks
from explainers.rate_distortion.solvers.feasible import Feasible
from explainers.rate_distortion.solvers.frank_wolfe import FrankWolfe
from explainers.rate_distortion.solvers.lbfgsb import LBFGSB
from explainers.rate_distortion.solvers.problem import Problems
from explainers.rate_distortion.solvers.projected_gradient import ProjectedGradient
from explainers.rate_distortion.solvers.projected_lbfgs import ProjectedLBFGS
from explainers.rate_distortion.solvers.spectral import SpectralProjectedGradient
from explainers.targets import Target
from explainers.trace import Trace

pytestmark = pytest.mark.slow

N_FEATURES = 12


@dataclass
class Quadratic:
    """``1/2 sum_i a_i (s_i - c_i)^2`` of each sample, with a little coupling where asked."""

    curvature: Tensor
    centre: Tensor
    coupling: float = 0.0
    n_maps: int = 1
    sizes: list[int] = field(default_factory=list)

    @property
    def selected(self) -> Tensor:
        return torch.ones(len(self.centre), dtype=torch.float64)

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(rows))
        apart = masks.flatten(1) - self.centre[rows]
        total = apart.sum(1, keepdim=True)
        slope = self.curvature[rows] * apart + self.coupling * total
        value = 0.5 * (self.curvature[rows] * apart**2).sum(1)
        return value + 0.5 * self.coupling * total[:, 0] ** 2, slope.view_as(masks)

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        return self(masks, rows)[0]


def quadratic(n_samples: int = 3, coupling: float = 0.0) -> Quadratic:
    """Return one whose minimisers are at both bounds and between them."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2, n_samples, N_FEATURES, generator=generator, dtype=torch.float64)
    return Quadratic(0.5 + 2 * draws[0], 2 * draws[1] - 0.3, coupling)


def problems(n_samples: int = 3, multipliers: tuple[float, ...] = (0.3, 3.0)) -> Problems:
    rows = torch.arange(n_samples).repeat_interleave(len(multipliers))
    start = torch.full((len(rows), 3, 4), 0.25, dtype=torch.float64)
    multiplier = torch.tensor(multipliers, dtype=torch.float64).repeat(n_samples)
    return Problems(rows, start, multiplier, None, torch.full_like(multiplier, 0.7))


def price(asked: Problems) -> Tensor:
    assert asked.multiplier is not None
    return 0.7 * asked.multiplier


def minimiser(distortion: Quadratic, asked: Problems) -> Tensor:
    """Return the mask at which ``a (s - c) + price / d`` is zero, or the nearest in the box."""
    slope = (price(asked) / N_FEATURES)[:, None]
    free = distortion.centre[asked.rows] - slope / distortion.curvature[asked.rows]
    return free.clamp(0, 1).view(-1, 3, 4)


SOLVERS: list[tuple[Any, float]] = [
    (ProjectedLBFGS(n_steps=40, tolerance=1e-9), 1e-4),
    # momentum oscillates: an error is a tenth after every 40 iterations
    (ProjectedGradient(n_steps=60), 1e-2),
    # SciPy's own rules stop at gradients of 1e-5
    (LBFGSB(), 1e-4),
    # the step falls to zero before the masks have settled
    (Adam(n_steps=60), 2e-2),
]
IDS = [type(solver).__name__ for solver, _ in SOLVERS]


@pytest.mark.parametrize(("solver", "near"), SOLVERS, ids=IDS)
def test_known_minimisers_at_bounds_and_between_are_found(solver: Any, near: float) -> None:
    distortion, asked = quadratic(), problems()
    expected = minimiser(distortion, asked)
    assert (expected == 0).any()
    assert (expected == 1).any()
    found = solver.solve(distortion, asked)
    torch.testing.assert_close(found.mask, expected, atol=near, rtol=0)
    value = distortion.value(found.mask, asked.rows)
    cost = price(asked) * found.mask.flatten(1).mean(1)
    torch.testing.assert_close(found.distortion, value)
    torch.testing.assert_close(found.objective, value + cost)
    torch.testing.assert_close(found.rate, found.mask.flatten(1).mean(1))
    assert (found.n_iterations > 0).all()


@pytest.mark.parametrize(("solver", "_"), SOLVERS, ids=IDS)
def test_the_gap_bounds_what_is_left_of_a_convex_objective(solver: Any, _: float) -> None:
    distortion, asked = quadratic(), problems()
    short = replace(solver, n_steps=4) if not isinstance(solver, LBFGSB) else solver
    found = short.solve(distortion, asked)
    best = minimiser(distortion, asked)
    least = distortion.value(best, asked.rows) + price(asked) * best.flatten(1).mean(1)
    assert (found.objective - least <= found.gap + 1e-12).all()


def test_the_gap_is_the_most_that_a_vertex_of_the_box_gains() -> None:
    mask, slope = torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([[3.0, -2.0, 0.0]])
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    expected = ((mask - corners) * slope).sum(1).max()
    gap = Feasible(None, torch.ones(1)).gap(mask, slope, 0)
    torch.testing.assert_close(gap[0], expected)


@pytest.mark.parametrize("coupling", [0.0, 1.0])
def test_the_best_point_is_kept_and_never_worse_than_the_start(coupling: float) -> None:
    distortion, asked = quadratic(coupling=coupling), problems()
    for solver in (Adam(n_steps=3, step=1.0), ProjectedGradient(n_steps=2, step=100.0)):
        first = solver.solve(distortion, asked).objective
        value = distortion.value(asked.start, asked.rows)
        assert (first <= value + price(asked) * 0.25 + 1e-12).all()


def test_coupled_problems_reach_what_scipy_reaches() -> None:
    distortion, asked = quadratic(coupling=2.0), problems()
    ours = ProjectedLBFGS(tolerance=1e-6).solve(distortion, asked)
    theirs = LBFGSB().solve(distortion, asked)
    assert (ours.objective <= theirs.objective * (1 + 1e-6)).all()


def slow_projected_gradient(
    distortion: Quadratic, asked: Problems, row: int, n: int
) -> tuple[np.ndarray, int]:
    """Return the best mask that n iterations try, as they are described, and how many they try."""
    number = torch.tensor([int(asked.rows[row])])
    cost = float(price(asked)[row])

    def objective(mask: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = distortion(torch.from_numpy(mask)[None], number)
        return float(value) + cost * mask.mean(), slope[0].numpy() + cost / mask.size

    mask, first = asked.start[row].flatten().numpy(), 1.0
    tried = [mask]
    momentum = np.zeros_like(mask)
    for _ in range(n):
        value, slope = objective(mask)
        momentum = 0.85 * momentum + 0.15 * slope
        for tries in range(1, 31):
            length = first * 0.7 ** (tries - 1)
            candidate = np.clip(mask - length * momentum, 0, 1)
            tried.append(candidate)
            moved = ((candidate - mask) ** 2).sum()
            is_found = value - objective(candidate)[0] >= 0.65 / length * moved
            if is_found:
                break
        if tries == 1 and is_found:
            first /= 0.7
        elif tries >= 5:
            first *= 0.7
        mask = candidate
    return min(tried, key=lambda one: objective(one)[0]), len(tried)


def test_projected_gradient_takes_the_steps_that_are_described() -> None:
    distortion, asked = quadratic(coupling=0.5), problems()
    found = ProjectedGradient(n_steps=7, tolerance=0.0).solve(distortion, asked)
    for row in range(len(asked)):
        expected, n_tried = slow_projected_gradient(distortion, asked, row, 7)
        torch.testing.assert_close(found.mask[row].flatten(), torch.from_numpy(expected))
        assert int(found.n_iterations[row]) == n_tried


@pytest.mark.parametrize(
    "solver",
    [ProjectedLBFGS(), ProjectedGradient(n_steps=12), Adam(n_steps=30)],
    ids=lambda solver: type(solver).__name__,
)
def test_other_rows_change_nothing(solver: Any) -> None:
    distortion, asked = quadratic(7, coupling=1.0), problems(7)
    together = solver.solve(distortion, asked)
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(1))
    shuffled = solver.solve(distortion, asked.at(order))
    assert torch.equal(shuffled.mask, together.mask[order])
    few = torch.nonzero(asked.rows < 2)[:, 0]
    apart = solver.solve(distortion, asked.at(few))
    # whoever leaves the batch earlier or later, in double precision and full blocks alike
    assert torch.equal(apart.mask, together.mask[few])
    assert torch.equal(apart.n_iterations, together.n_iterations[few])


@pytest.mark.parametrize(
    "solver", [Adam, ProjectedGradient, ProjectedLBFGS, FrankWolfe, SpectralProjectedGradient]
)
def test_solvers_count_evaluations_and_stop_by_one_rule(solver: Any) -> None:
    asked = problems()
    assert (solver(tolerance=1e9).solve(quadratic(), asked).n_iterations == 1).all()
    # nothing is left at the minimum but the floor, and no solver stops above it
    centred = replace(quadratic(), centre=quadratic().centre.clamp(0.1, 0.9))
    free = replace(
        asked, multiplier=torch.zeros(6), start=centred.centre[asked.rows].view(-1, 3, 4)
    )
    assert (solver(tolerance=1e-6).solve(centred, free).n_iterations == 1).all()
    off = replace(free, start=free.start + 0.01)
    assert (solver(tolerance=1e-6, n_steps=3).solve(centred, off).n_iterations > 1).all()


@pytest.mark.parametrize("solver", [LBFGSB(), ProjectedLBFGS()])
def test_small_outputs_are_explained_as_large_ones_are(solver: Any) -> None:
    distortion, asked = quadratic(coupling=1.0), problems()
    small = replace(distortion, curvature=1e-8 * distortion.curvature, coupling=1e-8)
    found = solver.solve(small, replace(asked, scale=1e-8 * asked.scale))
    torch.testing.assert_close(found.mask, solver.solve(distortion, asked).mask, rtol=0, atol=1e-4)


STRINGS = ("1001011111000000", "0110110010111110", "0000111110000100")
"""That of the original experiment, one that has nearly a second block, and one more."""


def of_strings(multipliers: list[float], n_strings: int) -> tuple[AssumedDensity, Problems]:
    strings = torch.tensor([[[[float(bit) for bit in one]]] for one in STRINGS[:n_strings]])
    network = Network(load(), strings[:1].repeat(2, 1, 1, 1))
    noise = resolve({"uniform": [0, 1]}, network, "diag")
    rows = torch.arange(n_strings).repeat_interleave(len(multipliers))
    start = torch.full((len(rows), 1, 1, 16), 0.5)
    price = torch.tensor(multipliers).repeat(n_strings)
    distortion = AssumedDensity(Trace(network, strings), Target.parse(None), noise)
    return distortion, Problems(rows, start, price, None, torch.ones_like(price))


@pytest.mark.long
def test_projected_gradient_goes_on_when_old_gradients_are_forgotten() -> None:
    distortion, asked = of_strings([1.67e-3], 1)
    found = ProjectedGradient(n_steps=400).solve(distortion, asked)
    assert (found.objective <= 1.01 * LBFGSB().solve(distortion, asked).objective).all()


def test_no_string_and_multiplier_is_a_hundredth_above_scipy() -> None:
    multipliers = [1e-5, 1.29e-4, 1.67e-3, 5.99e-3, 2.15e-2, 0.278, 1.0]
    distortion, asked = of_strings(multipliers, 3)
    found = ProjectedLBFGS().solve(distortion, asked)
    assert (found.objective <= 1.01 * LBFGSB().solve(distortion, asked).objective).all()


def test_rows_that_are_done_leave_the_batch() -> None:
    distortion, asked = quadratic(12), problems(12, (0.3,))
    asked.start[:10] = minimiser(distortion, asked)[:10]
    Adam(n_steps=20).solve(distortion, asked)
    # two blocks of eight at first, one as soon as somebody looked
    assert distortion.sizes == [8] * 8 + [8] * 16


def test_blocks_have_one_size_whatever_the_rows() -> None:
    distortion, asked = quadratic(3), problems(3)
    blocks = Blocks(distortion, 4)
    rows = torch.arange(3)
    for n_rows in (1, 2, 3):
        values, gradients = blocks(asked.start[:n_rows], rows[:n_rows])
        assert values.shape == (n_rows,)
        assert gradients.shape == (n_rows, 3, 4)
        torch.testing.assert_close(values, blocks.value(asked.start[:n_rows], rows[:n_rows]))
    assert set(distortion.sizes) == {4}


@dataclass
class Broken(Quadratic):
    """Has values of all samples, and slopes and values that are not finite of some."""

    without_slope: int = 0
    without_value: int = 2

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = super().__call__(masks, rows)
        slope[rows == self.without_slope, ..., 0] = torch.nan
        return value.where(rows != self.without_value, torch.inf), slope


@pytest.mark.parametrize(
    "solver",
    [*(solver for solver, _ in SOLVERS), FrankWolfe(9), SpectralProjectedGradient(9)],
    ids=lambda solver: type(solver).__name__,
)
def test_a_start_without_finite_slopes_is_no_solution_and_is_looked_at_once(solver: Any) -> None:
    whole, asked = quadratic(), problems()
    found = solver.solve(Broken(whole.curvature, whole.centre), asked)
    is_lost = asked.rows != 1
    assert found.objective[is_lost].isinf().all()
    assert found.distortion[is_lost].isinf().all()
    assert found.n_iterations[is_lost].tolist() == [1, 1, 1, 1]
    expected = solver.solve(whole, asked)
    assert torch.equal(found.mask[~is_lost], expected.mask[~is_lost])


@pytest.mark.parametrize("solver", [Adam(n_steps=20), ProjectedLBFGS(), ProjectedGradient(20)])
def test_searches_back_off_masks_without_finite_slopes(solver: Any) -> None:
    class Edge(Quadratic):
        def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = super().__call__(masks, rows)
            slope[(masks > 0.5).flatten(1).any(1)] = torch.inf
            return value, slope

    whole, asked = quadratic(), problems()
    found = solver.solve(Edge(whole.curvature, whole.centre), asked)
    assert found.objective.isfinite().all()
    assert (found.mask <= 0.5).all()
    first = whole.value(asked.start, asked.rows) + 0.25 * price(asked)
    assert (found.objective < first).all()


@pytest.mark.parametrize("solver", [Adam, ProjectedGradient, ProjectedLBFGS, LBFGSB])
def test_wrong_settings_are_refused(solver: Any) -> None:
    with pytest.raises(ValueError, match="n_steps"):
        solver(n_steps=0)
    with pytest.raises(ValueError, match="at least 0"):
        solver(tolerance=-1.0)


def test_wrong_problems_are_refused() -> None:
    asked = problems()
    with pytest.raises(ValueError, match="one number for each"):
        replace(asked, multiplier=torch.ones(2))
    with pytest.raises(ValueError, match="clamp"):
        replace(asked, start=asked.start + 1)
    with pytest.raises(ValueError, match="no multiplier"):
        Adam().solve(quadratic(), replace(asked, multiplier=None))
    for solver in (Adam(), ProjectedLBFGS(), LBFGSB()):
        with pytest.raises(ValueError, match="use the solver 'rate'"):
            solver.solve(quadratic(), replace(asked, multiplier=None, rate=torch.ones(6)))
