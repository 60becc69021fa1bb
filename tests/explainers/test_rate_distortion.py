"""Rate-distortion masks as a method: what is asked of solvers, and what comes beside the map."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Samples, Target, Trace, explaining
from explainers.attribution.rate_distortion import RateDistortion
from explainers.rate_distortion.assumed import AssumedDensity
from pipeline.planning.brief import brief

pytestmark = pytest.mark.slow

N, D, K = 3, 6, 4
UNIFORM: dict[str, Any] = {"uniform": [-1.0, 1.0]}
FIGURES = {
    "asked_rate",
    "distortion",
    "distortion_monte_carlo",
    "distortion_monte_carlo_error",
    "gap",
    "iterations",
    "multiplier",
    "objective",
    "rate",
    "start_distortion",
}


@functools.lru_cache(maxsize=1)
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()


@functools.lru_cache(maxsize=1)
def network() -> Network:
    return Network(model(), torch.zeros(2, D, dtype=torch.float64))


@functools.lru_cache(maxsize=1)
def inputs() -> Tensor:
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@functools.lru_cache(maxsize=1)
def moments() -> dict[str, Any]:
    """What the scan finds with a rank, of noise in fewer dimensions than the input has."""
    factor = torch.randn(K, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mean = torch.linspace(-0.5, 0.5, D, dtype=torch.float64)
    covariance = factor.T @ factor
    return {
        "count": torch.tensor(100),
        "mean": mean,
        "variance": covariance.diagonal(),
        "factor": factor,
        "covariance": covariance,
    }


def found(target: Any = None, rows: Any = slice(None), **parameters: Any) -> explainers.Explained:
    given = {"noise": moments(), "n_steps": 12, "n_verify": 8} | parameters
    method = RateDistortion(**given)
    index = torch.arange(N)[rows]
    trace = Trace(network(), inputs()[rows], samples=Samples(index, index % 3), seed=3)
    explaining.check(method, network(), Target.parse(target))
    return explaining.explained(method, trace.named("rde"), Target.parse(target))


def test_figures_of_a_mask_are_those_of_its_definition() -> None:
    explained = found(multipliers=0.5)
    mask, arrays = explained.relevance, explained.arrays
    assert mask.shape == (N, D)
    assert ((mask >= 0) & (mask <= 1)).all()
    assert arrays.keys() == FIGURES - {"asked_rate"} | {"selected"}
    output = network()(inputs())
    selected = output.amax(1)
    torch.testing.assert_close(arrays["selected"], selected)
    torch.testing.assert_close(arrays["rate"], mask.mean(1))
    price = 0.5 * selected**2 * arrays["rate"]
    torch.testing.assert_close(arrays["objective"], arrays["distortion"] + price)
    assert (arrays["objective"] <= arrays["start_distortion"] + 0.25 * 0.5 * selected**2).all()


def test_the_distortion_is_that_of_the_mask_by_moments_and_by_draws() -> None:
    """One linear output: moments are exact, 2000 draws within four standard errors."""
    explained = found(target={"layer": "0", "unit": 2}, n_verify=2000)
    mask, arrays = explained.relevance, explained.arrays
    weight = model().get_parameter("0.weight")[2].detach()
    lost = (1 - mask) * weight
    mean = (lost * (moments()["mean"] - inputs())).sum(1)
    variance = (lost @ moments()["factor"].T).square().sum(1)
    torch.testing.assert_close(arrays["distortion"], 0.5 * (mean**2 + variance))
    apart = (arrays["distortion_monte_carlo"] - arrays["distortion"]).abs()
    assert (apart <= 4 * arrays["distortion_monte_carlo_error"]).all()


@pytest.mark.parametrize(
    "parameters",
    [{"multipliers": [0.1, 1.0]}, {"solver": "rate", "rates": [0.2, 0.5]}, {"solver": "ordering"}],
)
def test_several_masks_are_beside_their_mean(parameters: dict[str, Any]) -> None:
    explained = found(**parameters)
    masks = explained.arrays["masks"]
    asked = RateDistortion(noise=moments(), **parameters).asked
    assert masks.shape == (N, len(asked), D)
    torch.testing.assert_close(explained.relevance, masks.mean(1))
    kind = "multiplier" if "multipliers" in parameters else "asked_rate"
    torch.testing.assert_close(explained.arrays[kind], torch.tensor([asked] * N).double())
    for name in FIGURES & explained.arrays.keys():
        assert explained.arrays[name].shape == (N, len(asked))
    torch.testing.assert_close(explained.arrays["rate"], masks.mean(2))
    if kind == "asked_rate":
        assert (explained.arrays["rate"] <= explained.arrays[kind] + 1e-9).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"start": {"mean": 0.5, "stdev": 0.1}},
        {"solver": "monte_carlo", "n_draws": 3},
        {"mode": "diag", "multipliers": [0.01, 0.1]},
        {"solver": "rate", "rates": 0.25},
    ],
)
def test_a_sample_has_the_same_mask_in_any_batch(parameters: dict[str, Any]) -> None:
    """To the rounding of sums in batches of another size, over a dozen steps in float64."""
    together, alone = found(**parameters), found(rows=[2, 0], **parameters)
    torch.testing.assert_close(alone.relevance, together.relevance[[2, 0]], rtol=0, atol=1e-9)
    for name, values in alone.arrays.items():
        torch.testing.assert_close(values, together.arrays[name][[2, 0]], rtol=1e-7, atol=1e-9)


def test_modes_agree_where_they_stand_for_the_same_noise() -> None:
    # of what a scan found both lose digits of their own
    given = {name: values for name, values in moments().items() if name != "count"}
    half, full = found(noise=given), found(noise=given, mode="full")
    torch.testing.assert_close(half.relevance, full.relevance, rtol=0, atol=1e-7)


def test_a_price_in_units_of_noise_does_not_vanish_with_the_output() -> None:
    weights = torch.zeros(N, 3, dtype=torch.float64)
    explained = found(target=weights)
    assert (explained.arrays["objective"] == 0).all()
    shifted = found(scale="noise", multipliers=2.0)
    nothing_kept = found(start=0.0, n_steps=1).arrays["start_distortion"]
    price = 2.0 * nothing_kept * shifted.arrays["rate"]
    torch.testing.assert_close(shifted.arrays["objective"], shifted.arrays["distortion"] + price)


def test_a_sample_without_a_finite_distortion_is_nan_and_others_are_not() -> None:
    method = RateDistortion(noise=moments(), n_steps=3)
    rows = inputs().clone()
    rows[1] = 1e200  # its squared output is infinite
    trace = Trace(network(), rows)
    explained = explaining.explained(method, trace, Target.parse(None))
    assert explained.relevance[1].isnan().all()
    assert explained.relevance[[0, 2]].isfinite().all()
    for name in FIGURES & explained.arrays.keys() - {"iterations"}:
        assert explained.arrays[name].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("solver", ["lagrangian", "rate", "ordering"])
def test_a_sample_without_a_finite_slope_is_nan_too(
    solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = AssumedDensity.__call__

    def broken(self: AssumedDensity, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = ordinary(self, masks, rows)
        gradient[rows == 1, 0] = torch.nan
        return value, gradient

    monkeypatch.setattr(AssumedDensity, "__call__", broken)
    explained = found(solver=solver, n_steps=3, n_verify=2)
    assert explained.relevance[1].isnan().all()
    assert explained.relevance[[0, 2]].isfinite().all()
    for name in ("distortion", "distortion_monte_carlo", "gap", "objective", "rate"):
        assert explained.arrays[name][1].isnan().all()


def test_a_layer_is_explained_with_noise_of_its_own() -> None:
    explained = found(layer="0", noise={"mean": 0.0, "variance": 1.0}, mode="half")
    assert explained.relevance.shape == (N, 8)
    with pytest.raises(ValueError, match="statistics of the inputs are no noise for it"):
        explaining.check(RateDistortion(layer="0"), network())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"noise": None}, "got no noise; pass noise="),
        ({"noise": {"count": 9, "mean": 0.0, "variance": 1.0}}, "set rank: 30 on the entry"),
        ({"mode": "rough"}, "got mode='rough', expected one of diag, half, full"),
        ({"mode": "diag", "rank": 3}, "got rank=3 in mode 'diag'"),
        ({"rates": 0.1}, "the solver 'lagrangian' does not take; give multipliers"),
        ({"solver": "rate", "multipliers": 0.1}, "the solver 'rate' does not take; give rates"),
        ({"solver": "rate", "rates": 1.5}, "above 0 and at most 1"),
        ({"solver": "rate", "optimiser": "adam"}, "expected one of spectral, frank_wolfe"),
        ({"solver": "order"}, "got solver='order', expected one of lagrangian, rate"),
        ({"multipliers": []}, "got no multipliers"),
        ({"multipliers": [0.1, -1.0]}, "got multipliers=-1.0"),
        ({"start": 1.5}, "got start=1.5"),
        ({"start": {"mean": 0.5}}, "expected a number or {mean, stdev}"),
        ({"n_verify": 1}, "got n_verify=1"),
        ({"n_steps": 0}, "got n_steps=0"),
        ({"step": 1.0}, "'projected_lbfgs', which finds the lengths of its steps; leave step out"),
        ({"solver": "ordering", "step": 1.0}, "'ordering', which finds the lengths of its steps"),
        ({"optimiser": "adam", "step": 0.0}, "got step=0.0, expected a number above 0"),
    ],
)
def test_what_does_not_fit_is_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        found(**parameters)


def test_a_scan_is_needed_unless_noise_is_given_and_says_what_the_mode_takes() -> None:
    assert RateDistortion.needs_of({}) == {"noise": "moments"}
    assert RateDistortion.needs_of({"noise": "statistics"}) == {"noise": "moments"}
    assert RateDistortion.needs_of({"noise": UNIFORM}) == {}
    asked = RateDistortion.parameters_of_needs
    assert asked({}) == {"noise": {"rank": 30}}
    assert asked({"rank": 5}) == {"noise": {"rank": 5}}
    assert asked({"mode": "full"}) == {"noise": {"covariance": "exact"}}
    assert asked({"mode": "diag"}) == {}


def test_passes_are_counted_by_the_maps_that_are_carried() -> None:
    method = RateDistortion(noise=moments(), multipliers=[0.1, 1.0], n_steps=5, n_verify=7)
    cost = explaining.cost(method, network())
    maps = 1 + K
    assert (cost.forward, cost.backward) == (1 + maps * (2 + 2 * 5) + 2 * 7, maps * 2 * 5)
    assert cost.steps == 10
    assert RateDistortion().cost.backward == 31 * RateDistortion().cost.steps
    drawn = RateDistortion(noise=UNIFORM, solver="monte_carlo", n_draws=3, n_steps=5)
    assert explaining.cost(drawn, network()).backward == 15


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"mode": "full"},
        {"mode": "diag", "multipliers": (0.1, 1.0)},
        {"noise": UNIFORM},
        {"solver": "rate"},
        {"solver": "ordering"},
        {"solver": "monte_carlo"},
        {"preset": "rde"},
    ],
)
def test_every_solver_has_a_brief_form(parameters: dict[str, Any]) -> None:
    method = explainers.build("rate_distortion", **{"noise": moments()} | parameters)
    assert isinstance(method, RateDistortion)
    tried = brief(method, network())
    assert tried is not None
    assert isinstance(tried, RateDistortion)
    assert tried.solver == method.solver


def test_noise_is_resolved_once_for_a_network() -> None:
    method = RateDistortion(noise=moments(), mode="full")
    assert method._resolved(network()) is method._resolved(network())


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_noise_that_was_changed_is_resolved_again(kind: str) -> None:
    variance: Any = torch.ones(D) if kind == "tensor" else np.ones(D)
    given = {"mean": 0.0, "variance": variance}
    method = RateDistortion(noise=given, mode="diag")
    first = method._resolved(network())
    variance[0] = 4.0
    assert float(method._resolved(network()).spread[0]) == 4
    given["mean"] = 2.0
    assert float(method._resolved(network()).mean[0]) == 2
    assert float(first.spread[0]) == 1


def test_multipliers_may_be_tensors() -> None:
    given = torch.tensor([0.125, 1.0])
    assert RateDistortion(multipliers=given).asked == (0.125, 1.0)
    assert RateDistortion(solver="rate", rates=np.array(0.5)).asked == (0.5,)
    with pytest.raises(TypeError, match="expected a number"):
        RateDistortion(multipliers=given[None])


def test_the_first_step_is_that_of_optimisers_that_take_one() -> None:
    authors = RateDistortion(noise=UNIFORM, optimiser="projected_gradient", step=10)
    assert authors._solver.step == 10
    assert RateDistortion(optimiser="adam")._solver.step == 0.1
