"""Permutation of features: Captum's in a batch, draws by sample from a background."""

from __future__ import annotations

import functools
from typing import Any

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
from tests.explainers import zoo

# both take the same differences of doubles, of values of about one
TOLERANCE = {"rtol": 0, "atol": 1e-10}


@functools.cache
def small() -> tuple[nn.Module, Network, Tensor]:
    model, inputs = zoo.small()
    return model, zoo.small_network(), torch.cat([inputs, inputs.flip(2)[:2]])


def order(network: Network, inputs: Tensor, draw: int) -> Tensor:
    """Return whose values each row takes."""
    numbers = torch.arange(len(inputs), dtype=torch.float64).view(-1, 1, 1, 1).expand_as(inputs)
    trace = Trace(network, numbers, namespace="feature_permutation")
    drawn = Shuffled(trace).at(torch.arange(len(inputs)), torch.tensor([draw]))
    return drawn[0, :, 0, 0, 0].long()


@pytest.mark.parametrize("n_samples", [1, 3])
def test_in_a_batch_maps_are_captums_with_the_same_permutations(n_samples: int) -> None:
    model, network, inputs = small()
    found = explainers.get("feature_permutation")(
        network, n_samples=n_samples, features="channels"
    ).explain(inputs, 1)
    maps = []
    for draw in range(n_samples):
        others = order(network, inputs, draw)
        assert not bool((others == torch.arange(len(inputs))).any())

        def permuted(given: Tensor, mask: Tensor, others: Tensor = others) -> Tensor:
            return torch.where(mask.bool(), given[others], given)

        channels = torch.arange(3).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        permutation = FeaturePermutation(model, permuted)
        maps.append(permutation.attribute(inputs, 1, feature_mask=channels))
    torch.testing.assert_close(found.relevance, torch.stack(maps).mean(0), **TOLERANCE)
    if n_samples == 1:
        assert found.arrays["standard_error"].isnan().all()
    else:
        error = torch.stack(maps).std(0) / n_samples**0.5
        torch.testing.assert_close(found.arrays["standard_error"], error, **TOLERANCE)


def test_with_a_background_samples_do_not_know_of_each_other() -> None:
    _, network, inputs = small()
    permutation = explainers.build(
        "feature_permutation", background=inputs[:4], n_samples=6, features={"grid": 2}
    )

    def found(rows: list[int]) -> Tensor:
        samples = Samples(torch.tensor(rows), torch.full((len(rows),), -1))
        trace = Trace(network, inputs[rows], samples=samples, namespace="p")
        return explained(permutation, trace, Target.parse(None)).relevance

    torch.testing.assert_close(found([5, 1]), found([0, 1, 2, 3, 4, 5])[[5, 1]], **TOLERANCE)


def test_all_of_a_background_is_the_mean_over_it() -> None:
    model, network, inputs = small()
    found = explainers.get("feature_permutation")(
        network, background=inputs, n_samples=6, features="channels"
    ).explain(inputs, 2)
    with torch.no_grad():
        for channel in range(3):
            points = inputs[:, None].repeat(1, 6, 1, 1, 1)
            points[:, :, channel] = inputs[:, channel]
            without = model(points.flatten(0, 1))[:, 2].view(6, 6).mean(1)
            lost = (model(inputs)[:, 2] - without).view(-1, 1, 1).expand(6, 8, 8)
            torch.testing.assert_close(found.relevance[:, channel], lost, **TOLERANCE)
    assert found.arrays["n_evaluations"].tolist() == [19] * 6


def test_a_run_has_to_have_a_background() -> None:
    method = explainers.method("feature_permutation")
    assert method.needs_of({}) == {"background": "background"}
    permutation = explainers.build("feature_permutation", n_samples=2, features="channels")
    assert permutation.cost_on(small()[1]).forward == 7


def test_one_sample_alone_is_refused() -> None:
    _, network, inputs = small()
    with pytest.raises(ValueError, match="nothing to permute"):
        explainers.explain(network, "feature_permutation", inputs[:1])
    found = explainers.explain(
        network, "feature_permutation", inputs[:1], background=inputs, features="channels"
    )
    assert found.shape == (1, 3, 8, 8)


def test_a_budget_and_a_tolerance_take_as_many_draws_as_they_say() -> None:
    _, network, inputs = small()
    generator = torch.Generator().manual_seed(3)
    background = torch.randn(20, *inputs.shape[1:], generator=generator, dtype=inputs.dtype)
    params: dict[str, Any] = {"features": "channels", "background": background}

    def explained(**more: Any) -> explainers.Explained:
        return explainers.get("feature_permutation")(network, **params, **more).explain(inputs, 1)

    wanted = explained(n_samples=13)
    found = explained(n_evaluations=1 + 13 * 3 + 2)
    assert found.arrays["n_evaluations"].tolist() == [40] * len(inputs)
    torch.testing.assert_close(found.relevance, wanted.relevance, **TOLERANCE)
    errors = wanted.arrays["standard_error"].flatten(1).square().mean(1).sqrt()
    sizes = wanted.relevance.flatten(1).square().mean(1).sqrt()
    middle = float((errors / sizes).median())
    stopped = explained(n_evaluations=1 + 40 * 3, tolerance=middle)
    used = (stopped.arrays["n_evaluations"] - 1) // 3
    assert 8 <= used.min() < used.max() <= 40
    row = int(used.argmin())
    alone = explained(n_samples=int(used[row]))
    torch.testing.assert_close(stopped.relevance[row], alone.relevance[row], **TOLERANCE)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_evaluations": 3, "features": "channels"}, "for 3 features, expected at least 4"),
        ({"n_evaluations": 30, "n_samples": 2}, "expected one of them"),
        ({"tolerance": -1.0}, "tolerance"),
    ],
)
def test_budgets_that_do_not_do_are_refused(params: dict[str, Any], message: str) -> None:
    _, network, _ = small()
    with pytest.raises(ValueError, match=message):
        explainers.get("feature_permutation")(network, **params)
