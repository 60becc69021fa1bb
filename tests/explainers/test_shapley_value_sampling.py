"""Shapley values of networks: DeepExplain's loop, Captum's and shap's values, any estimator."""

from __future__ import annotations

from itertools import product
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network, Samples, Target, Trace
from explainers.attribution.shapley_value_sampling import ShapleyValueSampling
from explainers.cut import begun
from explainers.shapley.auto import Auto
from explainers.shapley.estimator import made
from explainers.shapley.orders import orders
from tests.explainers.twins import seeded

NAME = "shapley_value_sampling"
generator = torch.Generator().manual_seed(7)
PICTURES = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)
BACKGROUND = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)


class Small(nn.Module):
    """Two channels of nine pixels to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 6, 2), nn.Linear(24, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.linear(self.conv(pictures).relu().flatten(1))
        return out


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(seeded(Small()), PICTURES[:2])


def assert_same(found: Tensor, expected: Tensor) -> None:
    """To rounding in float64."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def drawn_orders(n_orders: int, n_features: int, network: Network) -> Tensor:
    """The orders that the method takes in a notebook."""
    seed = Trace(network, PICTURES, namespace=NAME).shared_seed("coalitions")
    return orders(n_orders, n_features, torch.Generator().manual_seed(seed))


def deep_explain(network: Network, target: int, chosen: Tensor, dims: tuple[int, ...]) -> Tensor:
    """DeepExplain's loop: features leave the sample one after the other; ``(batch, sizes)``."""
    sizes = [PICTURES.shape[axis] for axis in dims]
    places = list(product(*[range(size) for size in sizes]))
    result = torch.zeros(len(PICTURES), *sizes, dtype=torch.float64)
    for order in chosen.tolist():
        left = PICTURES.clone()
        before = network(left)[:, target]
        for feature in order:
            index: list[Any] = [slice(None)] * PICTURES.ndim
            for axis, place in zip(dims, places[feature], strict=True):
                index[axis] = place
            left[tuple(index)] = 0
            after = network(left)[:, target]
            result[(slice(None), *places[feature])] += before - after
            before = after
    return result / len(chosen)


def test_the_lesser_of_two_has_to_be_shared() -> None:
    inputs = torch.tensor([[4.0, 2.0]])
    least = Network(lambda given: given.amin(1, keepdim=True), inputs)
    for estimator in ("auto", "exact", "permutation", "odd"):
        found = explainers.explain(least, NAME, inputs, target=0, estimator=estimator)
        torch.testing.assert_close(found, torch.ones(1, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [(2, 3), (1, 2, 3), (1,), (3,)])
def test_the_preset_deepexplain_is_its_loop(dims: tuple[int, ...], network: Network) -> None:
    bound = explainers.get(NAME)(network, preset="deepexplain", sampling_dims=dims)
    sizes = [PICTURES.shape[axis] for axis in dims]
    chosen = drawn_orders(5, int(np.prod(sizes)), network)
    expected = deep_explain(network, 1, chosen, dims)
    shape = [size if axis in dims else 1 for axis, size in enumerate(PICTURES.shape)]
    whole = expected.view(len(PICTURES), *shape[1:]).expand_as(PICTURES)
    assert_same(bound.attribute(PICTURES, 1), whole)


def test_without_axes_every_value_is_a_feature_and_pixels_are_two_axes(network: Network) -> None:
    get = explainers.get(NAME)
    for features, dims in ((None, (1, 2, 3)), ("pixels", (2, 3)), ("channels", (1,))):
        by_features = get(network, n_samples=4, features=features).explain(PICTURES, 0)
        by_axes = get(network, n_samples=4, sampling_dims=dims).explain(PICTURES, 0)
        assert torch.equal(by_features.relevance, by_axes.relevance)
        error = by_axes.arrays["standard_error"]
        assert torch.equal(by_features.arrays["standard_error"], error)


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_captum_finds_the_same_in_the_same_orders(baseline: float, network: Network) -> None:
    chosen = drawn_orders(3, 9, network).tolist()
    mask = torch.arange(9).view(1, 1, 3, 3).repeat(1, 2, 1, 1)
    theirs = captum.attr.ShapleyValueSampling(network)
    theirs.permutation_generator = lambda n_features, n_samples: chosen
    expected = theirs.attribute(
        PICTURES, baselines=baseline, target=1, feature_mask=mask, n_samples=3
    )
    found = explainers.get(NAME)(
        network, n_samples=3, antithetic=False, features="pixels", baseline=baseline
    )
    # Captum sums in float32
    torch.testing.assert_close(found.attribute(PICTURES, 1), expected.double(), rtol=0, atol=1e-6)


def test_exact_values_are_captums(network: Network) -> None:
    mask = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 3]]).repeat(1, 2, 1, 1)
    expected = captum.attr.ShapleyValues(network).attribute(PICTURES, target=2, feature_mask=mask)
    found = explainers.explain(
        network, NAME, PICTURES, target=2, estimator="exact", features={"masks": mask[0]}
    )
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-6)


# slow: importing shap takes seconds
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", ["ExactExplainer", "PermutationExplainer"])
def test_values_of_pairwise_interactions_are_shaps(name: str) -> None:
    shap = pytest.importorskip("shap")

    def pairwise(inputs: Any) -> Any:
        # features act in twos: an order and its reverse are exact
        return inputs[:, 0] * inputs[:, 1] - 2 * inputs[:, 2] + inputs[:, 1] * inputs[:, 3]

    inputs = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.3, 0.7, -1.0, 2.0]], dtype=torch.float64)
    baseline = np.array([[0.2, -0.1, 0.4, 1.0]])
    theirs = getattr(shap, name)(pairwise, shap.maskers.Independent(baseline))
    expected = torch.from_numpy(theirs(inputs.numpy()).values)
    bound = explainers.get(NAME)(
        lambda given: pairwise(given)[:, None],
        estimator="permutation",
        baseline=torch.from_numpy(baseline),
    )
    assert_same(bound.attribute(inputs, 0), expected)


@pytest.mark.parametrize(
    "params",
    [
        {"estimator": "permutation", "n_evaluations": 100},
        {"estimator": "permutation", "n_evaluations": 400, "tolerance": 0.15},
        {"estimator": "permutation", "n_evaluations": 100, "background": BACKGROUND},
        {"estimator": "odd", "n_evaluations": 80},
        {"estimator": "kernel", "n_evaluations": 80},
    ],
    ids=str,
)
def test_a_sample_gets_the_same_in_any_batch(params: dict[str, Any], network: Network) -> None:
    method = ShapleyValueSampling(features="pixels", **params)
    samples = Samples(torch.tensor([5, 3, 8, 1]), torch.full((4,), -1))
    whole = method.relevance(Trace(network, PICTURES, samples=samples), Target.parse(1))
    for row in range(4):
        one = Samples(samples.index[[row]], samples.label[[row]])
        alone = method.relevance(Trace(network, PICTURES[[row]], samples=one), Target.parse(1))
        assert_same(alone.relevance, whole.relevance[[row]])
        for name, values in alone.arrays.items():
            assert_same(values.double(), whole.arrays[name][[row]].double())


def test_orders_depend_on_seed_and_name_of_the_entry(network: Network) -> None:
    method = ShapleyValueSampling(n_samples=2, antithetic=False)
    maps = [
        method.relevance(Trace(network, PICTURES, seed=seed, namespace=name), Target.parse(0))
        for seed, name in ((0, "a"), (1, "a"), (0, "b"), (0, "a"))
    ]
    assert torch.equal(maps[0].relevance, maps[3].relevance)
    for other in maps[1:3]:
        assert not torch.allclose(maps[0].relevance, other.relevance)


def test_draws_from_a_background_sum_to_the_rise_above_its_mean(network: Network) -> None:
    # three rows, each seen by two of six pairs
    bound = explainers.get(NAME)(network, n_samples=12, background=BACKGROUND, features="pixels")
    found = bound.explain(PICTURES, 1)
    rise = network(PICTURES)[:, 1] - network(BACKGROUND)[:, 1].mean()
    # both channels have the number of their pixel
    assert_same(found.relevance[:, 0].sum((1, 2)), rise)
    assert found.arrays["n_evaluations"].tolist() == [1 + 6 * 17] * 4


def test_rows_with_other_features_get_what_they_need(network: Network) -> None:
    masks = torch.zeros(4, 1, 3, 3, dtype=torch.int64)
    masks[0, 0, 1:] = 1
    masks[1:, 0] = torch.arange(9).view(3, 3)
    masks[2, 0] %= 2
    bound = explainers.get(NAME)(
        network, estimator="permutation", n_samples=2, features={"masks": masks}
    )
    found = bound.explain(PICTURES, 1)
    assert found.arrays["n_evaluations"].tolist() == [4, 18, 4, 18]
    alone = explainers.get(NAME)(network, estimator="exact", features={"masks": masks[:1]})
    assert_same(found.relevance[:1], alone.attribute(PICTURES[:1], 1))


def test_precise_samples_stop_and_the_others_go_on(network: Network) -> None:
    flat = PICTURES.clone()
    # where nothing differs from the baseline but two pixels, one pair of orders is exact
    flat[0].zero_()
    flat[0, :, 0, :2] = PICTURES[0, :, 0, :2]
    bound = explainers.get(NAME)(
        network, estimator="permutation", n_evaluations=600, tolerance=0.01, features="pixels"
    )
    found = bound.explain(flat, 1)
    used = found.arrays["n_evaluations"].tolist()
    assert used[0] == 2 + 8 * 30
    assert max(used[1:]) > used[0]
    whole = explainers.get(NAME)(
        network, estimator="permutation", n_evaluations=used[0], features="pixels"
    )
    assert_same(found.relevance[:1], whole.attribute(flat[:1], 1))


@pytest.mark.parametrize(
    ("n_features", "n_evaluations", "name"),
    [
        (12, None, "exact"),
        (13, None, "odd"),
        (201, None, "permutation"),
        (12, 4095, "odd"),
        (12, 4096, "exact"),
        (16, 2**16, "exact"),
        (49, 195, "permutation"),
        (49, 196, "odd"),
        (200, 20_000, "permutation"),
    ],
)
def test_the_estimator_is_chosen_by_size_and_budget(
    n_features: int, n_evaluations: int | None, name: str
) -> None:
    assert Auto().chosen(n_features, n_evaluations).name == name


@pytest.mark.parametrize("params", [{"n_samples": 3}, {"background": BACKGROUND}])
def test_orders_are_taken_where_they_are_asked_for_or_there_are_draws(
    params: dict[str, Any], network: Network
) -> None:
    found = explainers.get(NAME)(network, features="pixels", **params).explain(PICTURES, 1)
    by_name = explainers.get(NAME)(
        network, estimator="permutation", features="pixels", **params
    ).explain(PICTURES, 1)
    assert torch.equal(found.relevance, by_name.relevance)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n_evaluations": 100},
        {"n_samples": 7},
        {"estimator": "permutation"},
        {"estimator": "exact"},
        {"preset": "deepexplain"},
    ],
    ids=str,
)
def test_the_cost_is_what_is_used(params: dict[str, Any], network: Network) -> None:
    method = explainers.build(NAME, features="pixels", **params)
    found = explainers.get(NAME)(network, features="pixels", **params).explain(PICTURES, 1)
    used = found.arrays["n_evaluations"].unique()  # type: ignore[no-untyped-call]
    assert used.tolist() == [method.cost_on(network).forward]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"n_evaluations": 10},
            "got n_evaluations=10 for .* permutation, expected at least 36 for 18",
        ),
        ({"n_evaluations": 4, "features": "pixels"}, "expected at least 18 for 9"),
        ({"estimator": "exact"}, "got 18 features, expected at most 16"),
        (
            {"estimator": "exact", "features": "pixels", "n_evaluations": 500},
            "at least 512 for 9 features",
        ),
        ({"sampling_dims": (1, 4)}, r"samples of shape \(2, 3, 3\), expected axes from 1 to 3"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_network_is_refused_before_any_sample(
    params: dict[str, Any], message: str, network: Network
) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build(NAME, **params).check(network)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_samples": 5, "n_evaluations": 100}, "expected one of them: orders, or forward"),
        ({"n_samples": 5, "estimator": "odd"}, "which has no orders of features"),
        ({"n_samples": 0}, "got n_samples=0, expected at least 1"),
        ({"n_evaluations": 1}, "got n_evaluations=1, expected at least 2"),
        ({"tolerance": -0.1}, "got tolerance=-0.1"),
        ({"order": "remove"}, "got order='remove', expected 'insertion' or 'removal'"),
        ({"sampling_dims": (0, 1)}, "got sampling_dims=0, expected at least 1"),
        ({"sampling_dims": (1, 1)}, "at least one axis, each once"),
        ({"sampling_dims": (1,), "features": "pixels"}, "both say what a feature is"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_are_refused_at_once(
    params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explainers.build(NAME, **params)


def test_an_unknown_estimator_is_told_the_nearest() -> None:
    with pytest.raises(LookupError, match="'permutations'; did you mean 'permutation'"):
        explainers.build(NAME, estimator="permutations")


def test_axes_of_tokens_or_several_inputs_are_refused_and_of_a_layer_are_its_own(
    network: Network,
) -> None:
    part = begun(network, ("conv",))
    with pytest.raises(ValueError, match="say by features what belongs together"):
        ShapleyValueSampling(sampling_dims=(1,)).check(part)
    bound = explainers.get(NAME)(network, sampling_dims=(1,), layer="conv")
    found = bound.attribute(PICTURES, 1)
    assert found.shape == (4, 6, 2, 2)
    # one number for each channel
    assert torch.equal(found, found[..., :1, :1].expand_as(found))


def test_an_estimator_gets_the_parameters_that_it_has() -> None:
    parameters = {"antithetic": False, "order": "removal", "tolerance": 3.0}
    assert made("permutation", parameters).least(9) == 10
    assert made("exact", parameters).least(9) == 512
