"""Permutation of features: Captum's in a batch, draws by sample from a background."""

from __future__ import annotations

import functools

import pytest
import torch
from captum.attr import FeaturePermutation
from torch import Tensor, nn

import explainers
from explainers import Network, Trace
from explainers.attribution.feature_permutation import Shuffled
from explainers.base import Samples
from explainers.explaining import explained
from explainers.targets import Target
from tests.explainers.twins import seeded

# both take the same differences of doubles, of values of about one
TOLERANCE = {"rtol": 0, "atol": 1e-10}


@functools.cache
def small() -> tuple[nn.Module, Network, Tensor]:
    model = seeded(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return model, Network(model, inputs), inputs


def order(network: Network, inputs: Tensor, draw: int) -> Tensor:
    """Return whose values each row takes."""
    numbers = torch.arange(len(inputs), dtype=torch.float64)[:, None].expand_as(inputs)
    trace = Trace(network, numbers, namespace="feature_permutation")
    drawn = Shuffled(trace).at(torch.arange(len(inputs)), torch.tensor([draw]))
    return drawn[0, :, 0].long()


@pytest.mark.parametrize("n_samples", [1, 3])
def test_in_a_batch_maps_are_captums_with_the_same_permutations(n_samples: int) -> None:
    model, network, inputs = small()
    found = explainers.get("feature_permutation")(network, n_samples=n_samples).explain(inputs, 1)
    maps = []
    for draw in range(n_samples):
        others = order(network, inputs, draw)
        assert not bool((others == torch.arange(len(inputs))).any())

        def permuted(given: Tensor, mask: Tensor, others: Tensor = others) -> Tensor:
            return torch.where(mask.bool(), given[others], given)

        maps.append(FeaturePermutation(model, permuted).attribute(inputs, 1))
    torch.testing.assert_close(found.relevance, torch.stack(maps).mean(0), **TOLERANCE)
    if n_samples == 1:
        assert "standard_error" not in found.arrays
    else:
        error = torch.stack(maps).std(0) / n_samples**0.5
        torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)


def test_with_a_background_samples_do_not_know_of_each_other() -> None:
    _, network, inputs = small()
    permutation = explainers.build("feature_permutation", background=inputs[:4], n_samples=6)

    def found(rows: list[int]) -> Tensor:
        samples = Samples(torch.tensor(rows), torch.full((len(rows),), -1))
        trace = Trace(network, inputs[rows], samples=samples, namespace="p")
        return explained(permutation, trace, Target.parse(None)).relevance

    torch.testing.assert_close(found([5, 1]), found([0, 1, 2, 3, 4, 5])[[5, 1]], **TOLERANCE)


def test_all_of_a_background_is_the_mean_over_it() -> None:
    model, network, inputs = small()
    found = explainers.get("feature_permutation")(network, background=inputs, n_samples=6).explain(
        inputs, 2
    )
    with torch.no_grad():
        for feature in range(5):
            points = inputs[:, None].repeat(1, 6, 1)
            points[:, :, feature] = inputs[:, feature]
            lost = model(inputs)[:, 2] - model(points)[..., 2].mean(1)
            torch.testing.assert_close(found.relevance[:, feature], lost, **TOLERANCE)
    assert found.arrays["n_evaluations"].tolist() == [31] * 6


def test_a_run_has_to_have_a_background() -> None:
    method = explainers.method("feature_permutation")
    assert method.needs_of({}) == {"background": "background"}
    cost = explainers.build("feature_permutation", n_samples=2).cost_on(small()[1])
    assert cost.forward == 11


def test_one_sample_alone_is_refused() -> None:
    _, network, inputs = small()
    with pytest.raises(ValueError, match="nothing to permute"):
        explainers.explain(network, "feature_permutation", inputs[:1])
    found = explainers.explain(network, "feature_permutation", inputs[:1], background=inputs)
    assert found.shape == (1, 5)
