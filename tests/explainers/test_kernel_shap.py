"""KernelSHAP on networks: against Captum and scikit-learn on the same coalitions, and its seams."""

from __future__ import annotations

import functools
import math
import warnings
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from captum.attr import KernelShap as CaptumKernelShap
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import explainers
from explainers import Network, Trace
from explainers.attribution.kernel_shap import KernelShap
from explainers.base import Samples
from explainers.sampling import chunks
from explainers.shapley.design import Design, Options, drawn
from tests.explainers.twins import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "kernel_shap"


def assert_same(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    """Well-posed equations of a hundred numbers of about one, in float64."""
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@functools.cache
def small() -> tuple[Network, Tensor, Tensor]:
    """Return a small network, three inputs for it and five samples of a background."""
    model = seeded(nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 3)))
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(8, 7, generator=generator, dtype=torch.float64)
    return Network(model, rows), rows[:3], rows[3:]


def explained(inputs: Tensor, **parameters: Any) -> explainers.Explained:
    network, _, _ = small()
    return explainers.get(NAME)(network, **parameters).explain(inputs)


def design_of(options: Options, n_evaluations: int) -> Design:
    """Return the design of the small network outside a run."""
    network, inputs, _ = small()
    seed = Trace(network, inputs, namespace=NAME).shared_seed("coalitions")
    return drawn(7, (n_evaluations - 2) // (2 if options.paired else 1), seed, options)


@pytest.mark.slow
def test_coefficients_are_captums_on_the_same_coalitions() -> None:
    network, inputs, _ = small()
    captum = {"paired": False, "stratified": False, "replacement": True}
    members = design_of(Options(**captum), 60).members.long()

    def coalitions(*_: Any, **__: Any) -> Iterator[Tensor]:
        yield torch.ones(1, 7, dtype=torch.long)
        yield torch.zeros(1, 7, dtype=torch.long)
        yield from members[:, None]

    peer = CaptumKernelShap(network)
    peer.perturb_func = coalitions
    classes = network(inputs).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [
            peer.attribute(row[None], target=int(label), n_samples=60)
            for row, label in zip(inputs, classes, strict=True)
        ]
    found = explained(inputs, n_evaluations=60, **captum)
    # the two ends weigh a million there and are constraints here; its samples are of float32
    assert_same(found.relevance, torch.cat(rows).to(inputs), atol=1e-5)
    assert KernelShap.presets["captum"] == captum


@pytest.mark.parametrize(
    "options", [Options(*chosen) for chosen in product([True, False], repeat=3)]
)
def test_coefficients_are_those_of_weighted_least_squares(options: Options) -> None:
    network, inputs, _ = small()
    design = design_of(options, 60)
    weights, _ = design.weights(len(design.members))
    members = design.members
    if options.paired:
        members, weights = torch.cat([members, ~members]), torch.cat([weights, weights])
    ends = torch.tensor([[True] * 7, [False] * 7])
    there = torch.cat([members, ends])
    # what KernelSHAP's authors do: ends that weigh so much that they hold
    every = torch.cat([weights, 1e6 * weights.max().expand(2)])
    rows = []
    for row, label in zip(inputs, network(inputs).argmax(1), strict=True):
        values = network(row * there)[:, label]
        model = LinearRegression().fit(there.double(), values, sample_weight=every)
        rows.append(torch.from_numpy(model.coef_))
    found = explained(
        inputs,
        n_evaluations=60,
        paired=options.paired,
        stratified=options.stratified,
        replacement=options.replacement,
    )
    assert_same(found.relevance, torch.stack(rows), atol=1e-5)


def test_values_and_errors_are_maps_that_sum_to_the_rise() -> None:
    network, inputs, _ = small()
    found = explained(inputs, baseline=0.5)
    classes = network(inputs).argmax(1, keepdim=True)
    rise = (network(inputs) - network(torch.full_like(inputs, 0.5))).gather(1, classes)[:, 0]
    assert_same(found.relevance.sum(1), rise)
    assert found.arrays["standard_error"].shape == inputs.shape
    assert found.arrays["residual"].shape == (3,)
    # twenty evaluations a feature are more than there are coalitions of seven
    assert found.arrays["n_evaluations"].tolist() == [128] * 3
    assert (found.arrays["standard_error"] == 0).all()


def test_all_coalitions_give_the_exact_values() -> None:
    _, inputs, _ = small()
    exact = explainers.get("shapley_value_sampling")(small()[0], estimator="exact")
    assert_same(explained(inputs).relevance, exact.explain(inputs).relevance)


def test_a_feature_alone_has_the_whole_rise() -> None:
    network, inputs, _ = small()
    found = explained(inputs, features={"grid": 1})
    rise = network(inputs) - network(torch.zeros_like(inputs))
    target = network(inputs).argmax(1, keepdim=True)
    assert_same(found.relevance, rise.gather(1, target).expand_as(inputs))
    assert found.arrays["n_evaluations"].tolist() == [2] * len(inputs)


def test_both_members_of_a_pair_see_the_same_row_of_a_background() -> None:
    """For one-row backgrounds that is the baseline; else values sum to the mean rise."""
    network, inputs, background = small()
    one = explained(inputs, background=background[:1], n_evaluations=60)
    assert_same(
        one.relevance,
        explained(inputs, baseline=background[0], n_evaluations=60).relevance,
    )
    found = explained(inputs, background=background, n_evaluations=100)
    classes = network(inputs).argmax(1)
    rise = (network(inputs) - network(background).mean(0))[torch.arange(3), classes]
    assert_same(found.relevance.sum(1), rise)
    assert (found.arrays["standard_error"] > 0).all()


def test_results_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, background = small()
    method = KernelShap(n_evaluations=60, background=background, tolerance=0.05)
    samples = Samples(torch.tensor([5, 9, 2]), torch.full((3,), -1))

    def run(rows: list[int]) -> explainers.Explained:
        who = Samples(samples.index[rows], samples.label[rows])
        trace = Trace(network, inputs[rows], samples=who, seed=1, namespace="k")
        return method.relevance(trace, explainers.Target())

    whole = run([0, 1, 2])
    monkeypatch.setattr(chunks, "rows_at_once", lambda *_, **__: 7)
    alone = [run([row]) for row in (0, 1, 2)]
    assert_same(whole.relevance, torch.cat([each.relevance for each in alone]))
    for name, array in whole.arrays.items():
        torch.testing.assert_close(array, torch.cat([each.arrays[name] for each in alone]))


def test_a_tolerance_ends_rows_early() -> None:
    _, inputs, _ = small()
    found = explained(inputs, n_evaluations=128, tolerance=10.0)
    # twice the least, sixteen
    assert found.arrays["n_evaluations"].tolist() == [32] * 3


def test_cost_is_known_where_the_features_are() -> None:
    network, _, _ = small()
    assert KernelShap(n_evaluations=61).cost_on(network).forward == 60
    assert KernelShap(n_evaluations=61, paired=False).cost_on(network).forward == 61
    assert KernelShap().cost_on(network).forward == 128
    assert math.isnan(KernelShap().cost.forward)


def test_budgets_that_do_not_do_are_refused() -> None:
    network, inputs, _ = small()
    with pytest.raises(ValueError, match=r"n_evaluations=15 for .* at least 16 for 7 features"):
        KernelShap(n_evaluations=15).check(network)
    with pytest.raises(ValueError, match="expected at least 16"):
        explained(inputs, n_evaluations=15)
    with pytest.raises(ValueError, match="n_evaluations=1, expected at least 2"):
        KernelShap(n_evaluations=1)
    with pytest.raises(ValueError, match="tolerance=-1"):
        KernelShap(tolerance=-1)
