"""Metrics of randomisation against their definitions, written out slowly, and their traps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import explainers
from explainers import Network, Samples, Target, Trace
from explainers.randomised import Randomisation, randomised
from pipeline.metrics import similarity
from pipeline.metrics.efficient_mprt import EfficientMPRT, histogram_entropy
from pipeline.metrics.metric import Case, Subject
from pipeline.metrics.mprt import MPRT
from pipeline.metrics.random_logit import RandomLogit, others
from pipeline.metrics.smooth_mprt import SmoothMPRT
from tests.explainers.randomisable import ORDER, pictures, small_network

if TYPE_CHECKING:
    from pipeline.metrics.metric import Metric

METRICS: tuple[Metric, ...] = (
    MPRT(n_steps=2),
    SmoothMPRT(layers=("head",), n_draws=3),
    EfficientMPRT(n_bins=8),
    RandomLogit(),
)


@pytest.fixture
def network() -> Network:
    return small_network()


def case_of(network: Network, rows: list[int] | None = None) -> Case:
    rows = list(range(5)) if rows is None else rows
    samples = Samples(torch.tensor(rows) + 40, torch.tensor(rows) % 4)
    trace = Trace(network, pictures()[rows], samples=samples, seed=3, namespace="metric")
    return Case(trace, Target("label"))


def gradient_map(model: Any, image: Tensor, label: int) -> Tensor:
    leaf = image[None].clone().requires_grad_()
    (found,) = torch.autograd.grad(model(leaf)[0, label], leaf)
    return found[0]


@dataclass
class Edges:
    """Looks at the picture only, and notes what it was shown."""

    seen: list[Trace] = field(default_factory=list)

    def explain(self, trace: Trace, target: Target) -> Tensor:
        self.seen.append(trace)
        return trace.inputs


def scores(metric: Metric, case: Case, explainer: Any) -> dict[str, Tensor]:
    trace = case.network_trace()
    maps = explainers.explaining.explained(explainer.explainer, trace, case.target).relevance
    return metric.scores(case, {"it": Subject(maps, explainer)})["it"]


def gradient(network: Network) -> Any:
    return explainers.get("gradient")(network)


def slow_ssim(one: np.ndarray, other: np.ndarray, window: tuple[int, int]) -> float:
    """Return the mean over windows, one after the other (Wang et al. 2004, equation 13)."""
    extent = max(one.max(), other.max()) - min(one.min(), other.min())
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    found = []
    for top in range(one.shape[0] - window[0] + 1):
        for left in range(one.shape[1] - window[1] + 1):
            a = one[top : top + window[0], left : left + window[1]].ravel()
            b = other[top : top + window[0], left : left + window[1]].ravel()
            (va, cov), (_, vb) = np.cov(a, b)
            first = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
            found.append(first * (2 * cov + c2) / (va + vb + c2))
    return float(np.mean(found))


def test_structural_similarity_is_the_mean_over_windows() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(3, 9, 6, generator=generator, dtype=torch.float64)
    other = one + 0.3 * torch.randn(3, 9, 6, generator=generator, dtype=torch.float64)
    # sides of windows are odd, and no longer than the picture's
    expected = [slow_ssim(a.numpy(), b.numpy(), (7, 5)) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(similarity.ssim(one, other), expected, rtol=1e-9)
    flat = similarity.ssim(one[:, :1, :1], other[:, :1, :1])
    assert flat.isfinite().all()
    zero = torch.zeros(1, 9, 6, dtype=torch.float64)
    assert similarity.ssim(zero, zero).tolist() == [1.0]
    assert float(similarity.ssim(zero, one[:1])) < 0.1


def test_ranks_of_ties_are_averaged_and_constants_have_an_answer() -> None:
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(
        similarity.ranks(values), [stats.rankdata(row) for row in values.numpy()]
    )
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, 6, (4, 30), generator=generator).double() for _ in range(2))
    found = similarity.correlation(similarity.ranks(one), similarity.ranks(other))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    constant = torch.zeros_like(one)
    assert similarity.correlation(constant, other).tolist() == [0.0] * 4
    assert similarity.correlation(constant, constant).tolist() == [1.0] * 4


@pytest.mark.parametrize("absolute", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_curve_compares_the_map_of_each_randomised_network(
    absolute: bool, network: Network
) -> None:
    case = case_of(network)
    metric = MPRT(absolute=absolute, order="bottom_up")
    found = scores(metric, case, gradient(network))
    steps = randomised(network, Randomisation(order="bottom_up", n_steps=8, seed=3))
    assert [step.layers for step in steps] == [(layer,) for layer in ORDER[::-1]]
    for row, image in enumerate(pictures()):
        maps = [gradient_map(network.module, image, row % 4)]
        maps += [gradient_map(step.network.module, image, row % 4) for step in steps]
        before, *after = [each.sum(0).abs() if absolute else each.sum(0) for each in maps]
        curve = [stats.spearmanr(before.ravel(), each.ravel()).statistic for each in after]
        np.testing.assert_allclose(found["similarity"][row], curve, rtol=1e-9)
        # not (1 + ...) / 3: the trained network is no step
        np.testing.assert_allclose(found["average"][row], np.mean(curve), rtol=1e-9)
        np.testing.assert_allclose(found["last"][row], curve[-1], rtol=1e-9)


def test_a_map_of_the_picture_alone_fails_all_tests(network: Network) -> None:
    case = case_of(network)
    for metric in METRICS:
        subject = Subject(pictures(), Edges())
        expected = 0.0 if metric.direction == "higher" else 1.0
        scored = metric.scores(case, {"edges": subject})["edges"]
        assert torch.allclose(scored[metric.headline], torch.full((5,), expected).double())


def test_explainers_share_networks_and_forward_passes(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    run = Network._run

    def counting(self: Network, values: dict[str, Tensor], unread: Any) -> dict[str, Tensor]:
        rows.append(len(next(iter(values.values()))))
        return run(self, values, unread)

    case, metric, edges = case_of(network), MPRT(seed=9), Edges()
    first = metric.steps(case)
    monkeypatch.setattr(Network, "_run", counting)
    maps, bound = torch.randn(5, 2, 5, 5, dtype=torch.float64), gradient(network)
    metric.scores(case, {"a": Subject(maps, bound), "b": Subject(maps, edges)})
    metric.scores(case, {"c": Subject(maps, bound)})
    # the forward pass of the samples, and one for each step and call of all explainers
    assert rows == [5] * (1 + 2 * len(ORDER))
    assert [trace.network for trace in edges.seen] == [step.network for step in first]


def test_smoothed_maps_are_means_over_the_same_noise(network: Network) -> None:
    case = case_of(network)
    metric = SmoothMPRT(n_draws=3, noise=0.2, similarity="pearson", n_steps=2)
    found = scores(metric, case, gradient(network))
    steps = randomised(network, Randomisation(n_steps=2, seed=3))
    trace = case.network_trace()
    noise = [trace.noise(f"draw {draw}", (2, 5, 5)) for draw in range(3)]
    for row, image in enumerate(pictures()):
        stdev = 0.2 * float(image.max() - image.min())
        maps = [
            sum(gradient_map(model, image + stdev * drawn[row], row % 4).sum(0) for drawn in noise)
            for model in (network.module, *(step.network.module for step in steps))
        ]
        before, *after = [np.abs(np.asarray(each)).ravel() for each in maps]
        curve = [stats.pearsonr(before, each).statistic for each in after]
        np.testing.assert_allclose(found["similarity"][row], curve, rtol=1e-9)


@pytest.mark.slow
def test_a_smoothed_map_without_noise_is_the_map(network: Network) -> None:
    smooth = scores(SmoothMPRT(n_draws=1, noise=0.0), case_of(network), gradient(network))
    plain = scores(MPRT(), case_of(network), gradient(network))
    torch.testing.assert_close(smooth, plain)


def test_entropy_is_that_of_the_histogram(network: Network) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 60, generator=generator, dtype=torch.float64)
    values[1] = values[1].round()
    values[2, :30] = 0.0
    expected = [stats.entropy(np.histogram(row, bins=11)[0]) for row in values.numpy()]
    np.testing.assert_allclose(histogram_entropy(values, 11), expected, rtol=1e-12)
    assert histogram_entropy(torch.zeros(1, 9), 5).tolist() == [0.0]
    found = scores(EfficientMPRT(n_bins=9), case_of(network), gradient(network))
    (step,) = randomised(network, Randomisation(n_steps=1, seed=3))
    for row, image in enumerate(pictures()):
        before, after = (
            stats.entropy(np.histogram(gradient_map(each.module, image, row % 4).sum(0), 9)[0])
            for each in (network, step.network)
        )
        np.testing.assert_allclose(found["rise"][row], (after - before) / before, rtol=1e-9)


def test_another_class_is_explained_and_compared_as_a_picture(network: Network) -> None:
    case = case_of(network)
    found = scores(RandomLogit(), case, gradient(network))["similarity"]
    classes, exists = others(case.network_trace(), case.target)
    assert exists.all()
    assert (classes != torch.arange(5) % 4).all()
    for row, image in enumerate(pictures()):
        one, other = (
            gradient_map(network.module, image, label).sum(0).numpy()
            for label in (row % 4, int(classes[row]))
        )
        one, other = (each / np.abs(each).max() for each in (one, other))
        np.testing.assert_allclose(found[row], slow_ssim(one, other, (5, 5)), rtol=1e-9)


def test_every_other_class_is_drawn_as_often_as_another(network: Network) -> None:
    samples = Samples(torch.arange(3000), torch.ones(3000, dtype=torch.int64))
    trace = Trace(network, pictures(1).expand(3000, -1, -1, -1), samples=samples)
    monkey = torch.zeros(3000, 4)
    trace.once("values", lambda: {network.output_name: monkey})
    classes, _ = others(trace, Target("label"))
    counts = torch.bincount(classes, minlength=4)
    assert int(counts[1]) == 0
    # five standard deviations of a count of 3000 * 1/3
    assert (counts[[0, 2, 3]] - 1000).abs().max() < 5 * (3000 * 2 / 9) ** 0.5
    weights = Target.parse(torch.tensor([1.0, 0.0, 2.0, 3.0]))
    assert (others(trace, weights)[0] == 1).all()
    assert not others(trace, Target.parse(torch.ones(4)))[1].any()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_score_does_not_depend_on_the_batch(metric: Metric, network: Network) -> None:
    together = scores(metric, case_of(network), gradient(network))
    for row in range(0, 5, 2):
        alone = scores(metric, case_of(network, [row]), gradient(network))
        for name, column in together.items():
            # sums of other lengths are rounded otherwise
            torch.testing.assert_close(alone[name][0], column[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_map_that_is_not_finite_has_no_score_and_touches_no_other(
    metric: Metric, network: Network
) -> None:
    case = case_of(network)
    bound = gradient(network)
    maps = bound.attribute(pictures(), torch.arange(5) % 4)
    whole = metric.scores(case, {"": Subject(maps, bound)})[""]
    broken = maps.clone()
    broken[1, 0, 2, 2], broken[3] = torch.nan, 0.0
    found = metric.scores(case_of(network), {"": Subject(broken, bound)})[""]
    for name, column in found.items():
        if name != "random_entropy":
            assert column[1].isnan().all(), name
        torch.testing.assert_close(column[[0, 2, 4]], whole[name][[0, 2, 4]])
    # that which smooths explains the sample itself again, where it has a map
    assert found[metric.headline][3].isnan() == (metric.name != "smooth_mprt")


class Flat:
    """Has the same map of one value for all."""

    def explain(self, trace: Trace, target: Target) -> Tensor:
        return torch.full_like(trace.inputs, -2.0)


@pytest.mark.parametrize(
    "metric", [*METRICS, RandomLogit("spearman")], ids=lambda metric: f"{metric.name}"
)
def test_maps_of_one_value_pass_no_test(metric: Metric, network: Network) -> None:
    maps = torch.full_like(pictures(), -2.0)
    found = metric.scores(case_of(network), {"": Subject(maps, Flat())})[""]
    assert found[metric.headline].isnan().all()


def test_a_unit_of_a_layer_is_explained_in_random_layers_before_it(network: Network) -> None:
    trace = case_of(network).network_trace()
    part, target = trace.ending_at(Target.parse({"layer": "conv", "unit": 1}))
    bound = gradient(network)
    found = scores(MPRT(), Case(part, target), bound)
    assert found["similarity"].shape == (5, 1)
    logit = scores(RandomLogit(), Case(part, target), bound)
    assert logit["similarity"].isfinite().all()


def test_the_report_draws_as_many_steps_as_there_are() -> None:
    curves = MPRT(n_steps=3).curves((1, 4, 4))
    assert [curve.x for curve in curves] == [(1.0,), (1.0, 2.0), (1.0, 2.0, 3.0)]
    assert MPRT(layers="all").curves((1, 4, 4)) == ()


def test_parameters_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="n_steps"):
        MPRT(n_steps=0)
    with pytest.raises(ValueError, match="layers"):
        MPRT(layers=())
    with pytest.raises(ValueError, match="noise"):
        SmoothMPRT(noise=-1.0)
    with pytest.raises(ValueError, match="n_bins"):
        EfficientMPRT(n_bins=0)
