"""lime against Captum on the same coalitions, and its errors against designs drawn again."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnRidge
from captum.attr import Lime as CaptumLime
from captum.attr._core.lime import get_exp_kernel_similarity_function
from torch import nn

import explainers
from explainers import Network, Samples, Target, Trace
from explainers.base import Cost
from explainers.perturbing import valuation
from explainers.surrogates import design
from tests.explainers.twins import pictures, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers.base import Explained

pytestmark = pytest.mark.slow

# Only the order of sums differs, in float64 and at values of about one.
TOLERANCE = {"rtol": 0, "atol": 1e-9}

IMAGES = pictures(3, 12, channels=2)[:, :, :6, :8]
GRID = {"grid": [3, 4]}
MASK = (torch.arange(6)[:, None] // 2 * 4 + torch.arange(8) // 2)[None, None]


@cache
def model() -> nn.Module:
    layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)]
    return seeded(nn.Sequential(*layers))


@cache
def network() -> Network:
    return Network(model(), IMAGES)


def explained(inputs: torch.Tensor = IMAGES, target: Any = 1, **params: Any) -> Explained:
    return explainers.get("lime")(network(), **{"features": GRID} | params).explain(inputs, target)


def coalitions(n_evaluations: int, n_features: int = 12) -> torch.Tensor:
    seed = Trace(network(), IMAGES, namespace="lime").shared_seed("coalitions")
    return design.coalitions(seed, n_evaluations, n_features)


def captums(n_evaluations: int, surrogate: Any, similarity: Any, baseline: float) -> torch.Tensor:
    """Captum's map on our coalitions; it makes one model for each image."""

    def perturbed(*_inputs: Any, **_parameters: Any) -> Iterator[torch.Tensor]:
        yield from coalitions(n_evaluations)[:, None].long()

    captum = CaptumLime(model(), surrogate, similarity, perturbed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return captum.attribute(
            IMAGES,
            baseline,
            target=1,
            feature_mask=MASK,
            n_samples=n_evaluations,
            perturbations_per_eval=n_evaluations,
        ).double()


@pytest.mark.parametrize("n_evaluations", [10, 40])
@pytest.mark.parametrize(
    ("kernel", "width"), [("cosine", 1.0), ("cosine", 0.3), ("euclidean", 9.0)]
)
@pytest.mark.parametrize("surrogate", ["lasso", "ridge"])
def test_maps_on_the_same_coalitions_equal_captums(
    surrogate: str, kernel: str, width: float, n_evaluations: int
) -> None:
    theirs = {
        "lasso": SkLearnLasso(alpha=0.01, tol=1e-10, max_iter=10_000),
        "ridge": SkLearnRidge(alpha=0.01),
    }[surrogate]
    similarity = get_exp_kernel_similarity_function(kernel, width)
    expected = captums(n_evaluations, theirs, similarity, 0.3)
    found = explained(
        n_evaluations=n_evaluations + 1,
        surrogate=surrogate,
        distance=kernel,
        kernel_width=width,
        baseline=0.3,
    )
    # Captum rounds outputs, weights and coefficients to float32
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=2e-5)


def test_defaults_are_captums() -> None:
    parameters = next(each for each in explainers.available() if each["name"] == "lime")
    captum = parameters["presets"]["captum"]
    assert {name: parameters["parameters"][name] for name in captum} == captum
    found = explained(preset="captum")
    theirs = captums(50, SkLearnLasso(alpha=0.01, tol=1e-10), None, 0.0)
    torch.testing.assert_close(found.relevance, theirs, rtol=0, atol=2e-5)


def test_the_authors_preset_is_a_ridge_with_the_sample_in_it() -> None:
    found = explained(preset="lime", n_evaluations=30)
    there = coalitions(30).double()
    there[0] = 1
    weights = torch.exp(-((1 - there.mean(1).sqrt()) ** 2) / (2 * 0.25**2))
    z = torch.cat([there, torch.ones(30, 1).double()], 1)
    penalty = torch.eye(13, dtype=torch.float64)
    penalty[12, 12] = 0
    for row, image in enumerate(IMAGES):
        outputs = [model()((image * mask[MASK[0]])[None])[0].softmax(0)[1] for mask in there]
        values = torch.stack(outputs).detach()
        normal = z.T @ (weights[:, None] * z) + penalty
        coefficients = torch.linalg.solve(normal, z.T @ (weights * values))
        expected = coefficients[:12][MASK[0]].expand(2, 6, 8)
        torch.testing.assert_close(found.relevance[row], expected, **TOLERANCE)


def test_a_linear_model_is_found() -> None:
    line = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()
    inputs = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    line_read = Network(line, inputs)
    for surrogate in ("lasso", "ridge"):
        params = {"surrogate": surrogate, "alpha": 1e-9, "n_evaluations": 20}
        found = explainers.get("lime")(line_read, **params).explain(inputs, 0)
        torch.testing.assert_close(found.relevance, inputs * line[1].weight[0], rtol=0, atol=1e-6)
        assert float(found.arrays["residual"].max()) < 1e-6


@pytest.mark.parametrize("params", [{}, {"surrogate": "ridge"}, {"tolerance": 0.3}])
def test_coalitions_are_those_of_the_run(params: dict[str, Any]) -> None:
    together = explained(n_evaluations=120, **params)
    samples = Samples(torch.tensor([8]), torch.tensor([-1]))
    alone = Trace(network(), IMAGES[1:2], samples=samples, namespace="lime")
    explainer = explainers.build("lime", features=GRID, n_evaluations=120, **params)
    found = explainer.relevance(alone, Target("index", 1))
    torch.testing.assert_close(found.relevance, together.relevance[1:2], **TOLERANCE)
    for name, array in found.arrays.items():
        torch.testing.assert_close(array, together.arrays[name][1:2], **TOLERANCE)
    other = Trace(network(), IMAGES[1:2], samples=samples, namespace="lime", seed=1)
    again = explainer.relevance(other, Target("index", 1))
    assert not torch.allclose(again.relevance, found.relevance)


@pytest.mark.parametrize(
    "params",
    [
        {"surrogate": "ridge", "alpha": 0.1},
        pytest.param({"tolerance": 0.0}, marks=pytest.mark.slow),
    ],
)
def test_standard_errors_are_the_spread_over_designs(params: dict[str, Any]) -> None:
    bounds = [
        explainers.get("lime")(
            network(), seed=seed, features=GRID, n_evaluations=100, output="logit", **params
        )
        for seed in range(40)
    ]
    runs = [bound.explain(IMAGES, 1) for bound in bounds]
    spread = torch.stack([run.relevance for run in runs]).var(0).mean((1, 2, 3))
    told = torch.stack([run.arrays["standard_error"] for run in runs]).square().mean((0, 2, 3, 4))
    # variances over 40 runs of twelve features, which hang together: some 15 % each; the jackknife
    # is known to tell rather too much than too little (Efron and Stein 1981)
    assert bool((told / spread > 0.7).all())
    assert bool((told / spread < 1.8).all())


@pytest.mark.parametrize("surrogate", ["lasso", "ridge"])
def test_a_sample_stops_when_its_error_is_small_whatever_the_others(surrogate: str) -> None:
    params = {"surrogate": surrogate, "alpha": 0.01, "n_evaluations": 401}
    found = explained(tolerance=0.12, **params)
    used = found.arrays["n_evaluations"]
    assert len(set(used.tolist())) > 1
    assert bool((used % 50 == 1).all())
    for row in range(3):
        as_many = params | {"n_evaluations": int(used[row]), "tolerance": 0.0}
        alone = explained(IMAGES[row : row + 1], **as_many)
        torch.testing.assert_close(found.relevance[row : row + 1], alone.relevance, **TOLERANCE)
        error = alone.arrays["standard_error"]
        assert used[row] == 401 or error.norm() <= 0.12 * alone.relevance.norm()


def test_numbers_beside_a_map_are_of_its_type() -> None:
    line = Network(nn.Linear(4, 2), torch.rand(2, 4))
    for params in ({"surrogate": "ridge"}, {"tolerance": 0.1}):
        bound = explainers.get("lime")(line, **params)
        arrays = bound.explain(torch.rand(2, 4), 1).arrays
        found = {name: array.dtype for name, array in arrays.items()}
        assert (found["standard_error"], found["residual"]) == (torch.float32,) * 2
        assert found["n_evaluations"] == torch.int64


@pytest.mark.parametrize("include_sample", [False, True])
def test_the_samples_own_pass_is_in_the_budget(
    include_sample: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    real = valuation.outputs_at

    def outputs_at(trace: Trace, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        passed.append(len(points))
        return real(trace, points, rows)

    monkeypatch.setattr(valuation, "outputs_at", outputs_at)
    found = explained(n_evaluations=13, include_sample=include_sample)
    assert sum(passed) == 3 * 12
    assert found.arrays["n_evaluations"].tolist() == [13] * 3


def test_backgrounds_go_with_distances_of_coalitions() -> None:
    background = pictures(4, 12, channels=2, seed=5)[:, :, :6, :8]
    with pytest.raises(ValueError, match="random then"):
        explained(background=background)
    found = explained(background=background, distance="hamming", surrogate="ridge", alpha=1e-3)
    assert bool(found.relevance.isfinite().all())


def test_each_sample_can_have_features_of_its_own() -> None:
    labels = torch.stack([MASK[0, 0], MASK[0, 0], MASK[0, 0] // 2])
    together = explained(features={"masks": labels}, n_evaluations=40)
    for row, mask in enumerate(labels):
        alone = explained(IMAGES[row : row + 1], features={"masks": mask}, n_evaluations=40)
        torch.testing.assert_close(together.relevance[row : row + 1], alone.relevance, **TOLERANCE)


def test_what_it_costs_and_what_is_to_be_known() -> None:
    assert explainers.build("lime").cost == Cost(forward=51)
    assert explainers.build("lime", preset="lime").cost == Cost(forward=1000)
    assert explainers.build("lime", features=GRID).cost_on(network()) == Cost(forward=51)
    (note,) = explainers.build("lime", n_evaluations=20).notes(network())
    assert "96 features to 19 coalitions" in note
    assert explainers.build("lime", features=GRID).notes(network()) == ()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_evaluations": 2}, "at least 3"),
        ({"n_evaluations": 1, "include_sample": True}, "at least 2"),
        ({"alpha": 0.0}, "alpha=0, expected a positive"),
        ({"kernel_width": 0.0}, "kernel_width=0, expected a positive"),
        ({"surrogate": "forest"}, "expected one of lasso, ridge"),
        ({"distance": "manhattan"}, "expected one of cosine, euclidean"),
        ({"tolerance": -0.1}, "at least 0"),
    ],
)
def test_parameters_are_checked(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build("lime", **params)
