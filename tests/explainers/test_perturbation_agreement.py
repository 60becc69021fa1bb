"""What holds for all methods that perturb features, and what their peers find instead of them."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr._core.lime import LimeBase
from torch import Tensor, nn

import explainers
from explainers import Network, Samples, Target, Trace
from explainers.perturbing.game import Game
from tests.explainers.twins import pictures, seeded

pytestmark = pytest.mark.slow

SIZE = 12
GRID = {"grid": 3}
BASELINE = [0.1, -0.2, 0.3]
TARGET = 2
# Only the order of sums differs, in float64 and at values of about one.
TOLERANCE: dict[str, Any] = {"rtol": 0, "atol": 1e-10}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "occlusion": ("occlusion", {"window": 4, "stride": 3}),
    "occlusion, shares": ("occlusion", {"window": 4, "convention": "deepexplain"}),
    "feature_ablation": ("feature_ablation", {"features": {"patches": 4}, "baseline": BASELINE}),
    "of channels": ("feature_ablation", {"features": "channels", "output": "probability"}),
    "feature_permutation": ("feature_permutation", {"features": GRID, "n_samples": 3}),
    "rise": ("rise", {"n_evaluations": 60, "cells": 4}),
    "lime": ("lime", {"features": GRID, "n_evaluations": 60}),
    "lime, ridge": ("lime", {"features": GRID, "n_evaluations": 60, "surrogate": "ridge"}),
    "lime, noise": ("lime", {"features": GRID, "baseline": {"noise": 0.5}}),
    "kernel_shap": ("kernel_shap", {"features": GRID, "n_evaluations": 100}),
    "kernel_shap, stops": ("kernel_shap", {"features": GRID, "tolerance": 0.1}),
    "kernel_shap, drawn": ("kernel_shap", {"features": GRID, "n_evaluations": 60}),
    "exact": ("shapley_value_sampling", {"features": {"grid": [3, 2]}, "estimator": "exact"}),
    "odd": ("shapley_value_sampling", {"features": GRID, "n_evaluations": 80}),
    "blurred": (
        "shapley_value_sampling",
        {"features": GRID, "n_evaluations": 80, "baseline": {"blur": 2.0}},
    ),
    "permutation": ("shapley_value_sampling", {"features": GRID, "n_samples": 8}),
    "permutation, stops": (
        "shapley_value_sampling",
        {"features": GRID, "estimator": "permutation", "n_evaluations": 800, "tolerance": 0.1},
    ),
    "permutation, drawn": ("shapley_value_sampling", {"features": GRID, "n_evaluations": 100}),
    "superpixels": (
        "shapley_value_sampling",
        {"features": {"slic": {"n_segments": 12}}, "n_evaluations": 60},
    ),
}
DRAWN = ("feature_permutation", "kernel_shap, drawn", "permutation, drawn")
"""Those whose absent features are samples of a background."""


class Small(nn.Module):
    """Convolutions, a pool and two matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3)
        self.hidden, self.last = nn.Linear(32, 12), nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Return four logits."""
        values = torch.max_pool2d(self.first(images).relu(), 2)
        values = torch.max_pool2d(self.second(values).relu(), 2)
        out: Tensor = self.last(self.hidden(values.flatten(1)).relu())
        return 4 * out


@cache
def network() -> Network:
    """The same network for all tests."""
    return Network(seeded(Small()), pictures(2, SIZE))


@cache
def inputs() -> Tensor:
    """Seven pictures."""
    return pictures(7, SIZE)


def parameters(name: str) -> tuple[str, dict[str, Any]]:
    """Return method and parameters."""
    method, given = METHODS[name]
    return method, {**given, "background": pictures(4, SIZE, seed=9)} if name in DRAWN else given


def explained(name: str, rows: list[int], seed: int = 3, namespace: str = "entry") -> Any:
    """Return what is found for some samples, as a worker of a run finds it."""
    method, given = parameters(name)
    samples = Samples(torch.tensor(rows) * 10, torch.full((len(rows),), -1))
    trace = Trace(network(), inputs()[rows], samples=samples, seed=seed, namespace=namespace)
    return explainers.build(method, **given).relevance(trace, Target.parse(TARGET))


def arrays_of(found: Any) -> dict[str, Tensor]:
    """Return the map and what is beside it."""
    return {"map": found.relevance, **{name: one.double() for name, one in found.arrays.items()}}


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_gets_the_same_in_any_batch_and_order(name: str) -> None:
    whole = arrays_of(explained(name, list(range(7))))
    for batch in ([4], [6, 2, 0], [5, 3, 1]):
        for array, values in arrays_of(explained(name, batch)).items():
            torch.testing.assert_close(
                values, whole[array][batch], equal_nan=True, msg=array, **TOLERANCE
            )


def digests() -> list[str]:
    """Return maps of all methods, to be compared by their bits."""
    return [
        f"{name} {arrays_of(explained(name, [1, 4]))['map'].double().numpy().tobytes().hex()}"
        for name in METHODS
    ]


def test_another_process_finds_the_same_bits() -> None:
    code = (
        "from tests.explainers import test_perturbation_agreement as here; import torch; "
        "torch.manual_seed(5); torch.set_num_threads(1); print(*here.digests(), sep='\\n')"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert answer.stdout.splitlines() == digests()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in {"exact"}])
def test_what_is_drawn_follows_from_seed_and_entry(name: str) -> None:
    maps = [
        explained(name, [0, 1], seed, namespace).relevance
        for seed, namespace in ((3, "entry"), (3, "entry"), (4, "entry"), (3, "other"))
    ]
    assert torch.equal(maps[0], maps[1])
    method, _ = parameters(name)
    if explainers.build(method).stochastic and method != "feature_ablation":
        for other in maps[2:]:
            assert not torch.allclose(maps[0], other, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "given", "tolerance"),
    [
        ("feature_ablation", {"features": GRID}, 1e-12),
        ("shapley_value_sampling", {"features": GRID, "estimator": "permutation"}, 1e-12),
        # shrunken by some five percent at most
        ("shapley_value_sampling", {"features": GRID, "n_evaluations": 60}, 0.02),
        ("shapley_value_sampling", {"features": GRID, "estimator": "kernel"}, 1e-12),
        ("shapley_value_sampling", {"features": GRID, "estimator": "exact"}, 1e-12),
        ("kernel_shap", {"features": GRID}, 1e-12),
        # a penalty this small leaves the linear model as it is
        ("lime", {"features": GRID, "surrogate": "ridge", "alpha": 1e-9}, 1e-6),
        ("lime", {"features": GRID, "alpha": 1e-9}, 1e-6),
        ("occlusion", {"window": 4}, 1e-12),
    ],
    ids=str,
)
def test_in_a_linear_network_all_find_the_terms_of_its_sum(
    method: str, given: dict[str, Any], tolerance: float
) -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2)).double()
    weights = linear[1].weight[1].detach().view(3, SIZE, SIZE)
    absent = torch.tensor(BASELINE, dtype=torch.float64)[:, None, None]
    terms = (weights * (inputs() - absent)).view(-1, 3, 3, 4, 3, 4).sum((1, 3, 5))
    found = explainers.explain(linear, method, inputs(), 1, baseline=BASELINE, **given)
    expected = terms.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("shapley_value_sampling", {"estimator": "exact"}),
        ("shapley_value_sampling", {"estimator": "kernel", "n_evaluations": 512}),
        ("shapley_value_sampling", {"estimator": "odd", "n_evaluations": 512}),
        ("kernel_shap", {"n_evaluations": 512}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_values_from_all_coalitions_are_those_of_shap(method: str, given: dict[str, Any]) -> None:
    shap = pytest.importorskip("shap")
    found = explainers.explain(
        network(), method, inputs()[:2], TARGET, features=GRID, baseline=BASELINE, **given
    )
    for numbers, value in zip(found[:, 0, ::4, ::4].flatten(1), games(), strict=True):
        exact = shap.ExactExplainer(value, np.zeros((1, 9)))(np.ones((1, 9))).values[0]
        kernel = shap.KernelExplainer(value, np.zeros((1, 9)))
        regressed = kernel.shap_values(np.ones(9), nsamples=512, silent=True, l1_reg=0)
        np.testing.assert_allclose(numbers, exact, rtol=0, atol=1e-10)
        # shap's regression is solved from normal equations
        np.testing.assert_allclose(numbers, regressed, rtol=0, atol=1e-8)


def games() -> list[Any]:
    """The first pictures as functions of which cells are there, for shap."""
    at = torch.arange(SIZE) // 4
    cells = at[:, None] * 3 + at
    absent = torch.tensor(BASELINE, dtype=torch.float64)[:, None, None]

    def of(image: Tensor) -> Any:
        def value(there: Any) -> Any:
            members = torch.from_numpy(np.asarray(there) > 0.5)[:, cells][:, None]
            return network()(torch.where(members, image, absent))[:, TARGET].numpy()

        return value

    return [of(image) for image in inputs()[:2]]


class Spied(captum.attr.KernelShap):
    """Captum's regression on coalitions that are given."""

    coalitions: Tensor

    def kernel_shap_perturb_generator(self, original_inp: Any, **_unused: Any) -> Any:
        """Yield all, none, and what is given."""
        n_features = self.coalitions.shape[1]
        yield torch.ones(1, n_features, dtype=torch.long)
        yield torch.zeros(1, n_features, dtype=torch.long)
        yield from self.coalitions.long()[:, None]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Coalitions whose values are looked at."""
    seen: list[Tensor] = []
    values = Game.values

    def spied(game: Game, coalitions: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(coalitions)
        return values(game, coalitions, *args, **kwargs)

    monkeypatch.setattr(Game, "values", spied)
    return seen


def mask() -> Tensor:
    """The grid, for Captum."""
    at = torch.arange(SIZE) // 4
    return (at[:, None] * 3 + at)[None, None]


@pytest.mark.filterwarnings("ignore:You are providing multiple inputs")
def test_kernel_shap_on_captums_coalitions_is_captums(asked: list[Tensor]) -> None:
    iid = {"paired": False, "stratified": False, "replacement": True}
    found = explainers.explain(
        network(), "kernel_shap", inputs()[:2], TARGET, features=GRID, n_evaluations=80, **iid
    )
    theirs = Spied(network())
    theirs.coalitions = torch.cat([each for each in asked if 0 < each.sum() < each.numel()])
    expected = theirs.attribute(
        inputs()[:2],
        target=TARGET,
        feature_mask=mask(),
        n_samples=2 + len(theirs.coalitions),
        perturbations_per_eval=20,
    )
    # Captum's constraint is a weight of 1e6, and it works in float32
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=2e-5)


def test_lime_on_the_same_coalitions_is_captums(asked: list[Tensor]) -> None:
    found = explainers.explain(network(), "lime", inputs()[:1], TARGET, features=GRID)
    coalitions = iter(torch.cat(asked)[:, None].double())
    cells = mask()

    def similarity(image: Tensor, perturbed: Tensor, *_unused: Any, **_more: Any) -> Tensor:
        cosine = torch.cosine_similarity(image.flatten(), perturbed.flatten(), dim=0)
        return torch.exp(-((1 - cosine) ** 2) / 2)

    theirs = LimeBase(
        network(),
        captum.attr._core.lime.SkLearnLasso(alpha=0.01),
        similarity_func=similarity,
        perturb_func=lambda *_unused, **_more: next(coalitions),
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda there, image, **_more: image * there[0, cells],
        to_interp_rep_transform=None,
    )
    expected = theirs.attribute(
        inputs()[:1], target=TARGET, n_samples=50, perturbations_per_eval=10
    )
    numbers = found[:, 0, ::4, ::4].flatten(1)
    # scikit-learn stops at a duality gap of 1e-4; Captum works in float32
    torch.testing.assert_close(numbers, expected.double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["feature_ablation", "shapley_value_sampling"])
def test_captums_noise_tunnel_goes_through_ours(method: str) -> None:
    ours = explainers.get(method)(network(), features=GRID)
    kinds = {
        "feature_ablation": captum.attr.FeatureAblation,
        "shapley_value_sampling": captum.attr.ShapleyValues,
    }
    if method != "feature_ablation":
        ours = explainers.get(method)(network(), features={"grid": 2}, estimator="exact")
    at = torch.arange(SIZE) // 6
    cells = mask() if method == "feature_ablation" else (at[:, None] * 2 + at)[None, None]
    maps = []
    for inner, given in ((ours, {}), (kinds[method](network()), {"feature_mask": cells})):
        torch.manual_seed(4)
        tunnel = captum.attr.NoiseTunnel(inner)
        maps.append(
            tunnel.attribute(inputs()[:2], nt_samples=3, stdevs=0.2, target=TARGET, **given)
        )
    # Captum's permutations are summed in float32
    torch.testing.assert_close(*(one.double() for one in maps), rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", ["occlusion", "feature_ablation", "shapley_value_sampling"])
def test_smooth_grad_goes_around_perturbations(method: str) -> None:
    given = {"window": 4} if method == "occlusion" else {"features": GRID}
    smooth = explainers.get("smooth_grad")(
        network(), attribution=method, parameters=given, n_samples=40, stdev=1e-9
    )
    plain = explainers.explain(network(), method, inputs()[:2], TARGET, **given)
    # noise this small changes nothing but the last digits
    torch.testing.assert_close(smooth.attribute(inputs()[:2], TARGET), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_arrays_have_the_form_that_stores_take(name: str) -> None:
    found = explained(name, [0, 1])
    for array, values in found.arrays.items():
        expected = found.relevance.shape if array == "standard_error" else (2,)
        assert values.shape == expected, array
    assert found.relevance.isfinite().all()
    error = found.arrays.get("standard_error", torch.zeros(1))
    # of one draw nothing is known
    assert bool(((error >= 0) | error.isnan()).all())
    assert found.relevance.abs().max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_costs_are_the_forward_passes_that_samples_take(name: str) -> None:
    method, given = parameters(name)
    said = explainers.build(method, **given).cost_on(network()).forward
    used = explained(name, [0, 1, 2]).arrays["n_evaluations"]
    assert np.isnan(said) or bool((used <= said).all())
