from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import explainers
from explainers import Network, Samples, Trace, baselines, reference

if TYPE_CHECKING:
    from collections.abc import Mapping

INPUTS = torch.ones(4, 3, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (None, torch.zeros(1, 3, 2, 2)),
        (0, torch.zeros(1, 3, 2, 2)),
        (0.5, torch.full((1, 3, 2, 2), 0.5)),
        ((1.0, 2.0, 3.0), torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)),
        (torch.arange(12.0).view(3, 2, 2), torch.arange(12.0).view(1, 3, 2, 2)),
        (torch.arange(12.0).view(1, 3, 2, 2), torch.arange(12.0).view(1, 3, 2, 2)),
        (torch.arange(48.0).view(4, 3, 2, 2), torch.arange(48.0).view(4, 3, 2, 2)),
    ],
)
def test_a_baseline_broadcasts_against_the_inputs(baseline: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(
        baselines.resolve(baseline, INPUTS), expected.double(), rtol=0, atol=0
    )


def test_words_mean_the_samples_own_extremes() -> None:
    inputs = torch.tensor([[[3.0, -1.0]], [[0.5, 2.0]]])
    for word, found in (("min", [-1.0, 0.5]), ("max", [3.0, 2.0])):
        expected = torch.tensor(found)[:, None, None].expand(2, 1, 2)
        assert torch.equal(baselines.resolve(word, inputs), expected)  # type: ignore[arg-type]


def test_the_mean_of_a_sample_is_taken_channel_by_channel() -> None:
    inputs = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    expected = inputs.mean((2, 3), keepdim=True).expand_as(inputs)
    # two orders of summation of twenty numbers
    torch.testing.assert_close(baselines.resolve("mean", inputs), expected, rtol=1e-14, atol=0)
    table = inputs[:, 0, 0]
    found = baselines.resolve("mean", table)
    torch.testing.assert_close(found, table.mean(1, keepdim=True).expand_as(table))


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0, 9.0])
def test_a_blurred_image_is_that_of_scipy(sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = torch.rand(2, 3, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = (0, 0, sigma, sigma)
    expected = ndimage.gaussian_filter(image.numpy(), axes, mode="reflect", truncate=4.0)
    found = baselines.resolve({"blur": sigma}, image)
    # both round each of some hundred products
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 2, 2), (3, 2), (1, 3, 4, 4)])
def test_a_baseline_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the inputs \(4, 3, 2, 2\)"):
        baselines.resolve(torch.zeros(shape), INPUTS)


def test_shapes_that_are_the_same_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"a tensor \(3, 2, 2\) or \(1, 3, 2, 2\)$"):
        baselines.resolve(torch.zeros(5), INPUTS[:1])


@pytest.mark.parametrize("baseline", ["black", ("a", "b", "c"), object(), {"value": 0}])
def test_a_baseline_that_is_no_number_is_refused(baseline: Any) -> None:
    with pytest.raises(TypeError, match=r"got baseline .*, expected None, a number"):
        baselines.resolve(baseline, INPUTS)


@pytest.mark.parametrize(
    ("baseline", "shape", "message"),
    [
        ({"blur": 2.0}, (3,), "'blur' for inputs of shape .*, expected images"),
        ({"blur": -1.0}, (3, 2, 2), "got blur=-1.0, expected a finite number, at least 0"),
        ({"noise": float("nan")}, (3, 2, 2), "got noise=nan, expected a finite number"),
    ],
)
def test_a_blur_and_noise_that_cannot_be_are_refused(
    baseline: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        baselines.check(baseline, shape)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 3)
    )
    return Network(model.double(), torch.zeros(2, 1, 6, 6, dtype=torch.float64))


def traced(network: Network, rows: list[int], namespace: str = "one") -> Trace:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 1, 6, 6, dtype=torch.float64, generator=generator)
    samples = Samples(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))
    return Trace(network, images[rows], samples=samples, namespace=namespace)


def test_noise_is_a_samples_own_in_any_batch(network: Network) -> None:
    noise = {"noise": 0.5}
    whole = traced(network, [0, 1, 2, 3, 4]).baseline(noise)
    assert torch.equal(whole[[3, 1]], traced(network, [3, 1]).baseline(noise))
    other = traced(network, [0, 1, 2, 3, 4], "two").baseline(noise)
    # of 180 normal numbers of deviation 0.5; five standard errors
    assert abs(float(whole.std()) - 0.5) < 0.14
    assert float((whole - other).abs().min()) > 0
    assert (whole == 2 * traced(network, [0, 1, 2, 3, 4]).baseline({"noise": 0.25})).all()


def test_a_layer_sees_what_is_drawn_or_blurred_at_the_input(network: Network) -> None:
    for spec in ({"noise": 0.5}, {"blur": 1.0}, "mean"):
        trace = traced(network, [0, 2])
        # made for another explainer: what is drawn is not that one's
        trace.named("other").starting_at("0").baseline(spec)
        expected = trace.at(trace.baseline(spec).expand_as(trace.inputs)).layer("0")
        found = trace.starting_at("0").baseline(spec)
        torch.testing.assert_close(found.expand_as(expected), expected, rtol=0, atol=1e-15)


def test_references_of_noise_are_not_shared_among_explainers(network: Network) -> None:
    trace = traced(network, [0, 2])
    spec = {"noise": 1.0}
    assert trace.reference(spec) is trace.reference({"noise": 1.0})
    assert trace.reference(spec) is not trace.named("other").reference(spec)
    assert trace.reference({"blur": 1.0}) is trace.named("other").reference({"blur": 1.0})


METHODS = ("integrated_gradients", "deep_lift", "feature_ablation")


@pytest.mark.parametrize("name", METHODS)
def test_the_mean_of_the_data_is_that_of_the_scan(network: Network, name: str) -> None:
    images = traced(network, [0, 1, 2, 3, 4]).inputs
    statistics = explainers.scan(network, "moments", [(images, None)])
    given: Mapping[str, Any] = {"baseline": "data_mean", "statistics": statistics}
    found = explainers.explain(network, name, images, 1, **given)
    expected = explainers.explain(network, name, images, 1, baseline=images.mean(0))
    # two orders of summation of five numbers
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_statistics_are_asked_for_where_they_are_missing_and_only_there(
    network: Network, name: str
) -> None:
    images = traced(network, [0, 1]).inputs
    with pytest.raises(ValueError, match=r"'data_mean' got no statistics; pass statistics="):
        explainers.explain(network, name, images, baseline="data_mean")
    with pytest.raises(ValueError, match=r"got statistics with the baseline 'mean'"):
        explainers.explain(network, name, images, baseline="mean", statistics={"mean": 0})
    with pytest.raises(ValueError, match=r"got statistics without a mean"):
        explainers.explain(network, name, images, baseline="data_mean", statistics={"count": 0})
    kind = explainers.method(name)
    assert kind.needs_of({"baseline": "data_mean"}) == {"statistics": "moments"}
    assert kind.needs_of({"baseline": "mean"}) == kind.needs_of({}) == {}


def test_tokens_and_several_inputs_have_no_mean_nor_blur() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 4)
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            of_tokens: torch.Tensor = self.linear(self.embedding(tokens).mean(1))
            return of_tokens + image.sum((1, 2, 3))[:, None]

    example = {"tokens": torch.zeros(2, 6, dtype=torch.int64), "image": torch.rand(2, 1, 4, 4)}
    network = Network(Two(), example)
    for spec in ("mean", "data_mean", {"blur": 1.0}):
        with pytest.raises(TypeError, match=r"for tokens, expected the index of a token"):
            reference.check(spec, network)
    given = {"image": {"blur": 1.0}}
    reference.check(given, network)
    trace = reference.at_inputs(Trace(network, example))
    expected = baselines.resolve({"blur": 1.0}, example["image"]).flatten(1)
    found = trace.baseline(given)
    n_blurred = torch.isclose(found[..., None], expected[:, None]).any(1).sum(1)
    assert (n_blurred == expected.shape[1]).all()
    with pytest.raises(ValueError, match="'data_mean' serves one input of numbers"):
        reference.check({"image": "data_mean"}, network)


@pytest.mark.parametrize(
    "baseline",
    [float("nan"), float("inf"), (0.0, float("nan"), 1.0), torch.full((3, 2, 2), torch.nan)],
)
def test_a_baseline_that_is_not_finite_is_refused(baseline: Any) -> None:
    with pytest.raises(ValueError, match="NaN or infinite values"):
        baselines.resolve(baseline, INPUTS)
