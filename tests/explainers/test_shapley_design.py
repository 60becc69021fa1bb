"""Designs of coalitions: what is in them, how often, and that they grow from their beginning."""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from explainers.shapley import design, subsets
from explainers.shapley.design import Options, drawn

EVERY = [Options(*chosen) for chosen in product([True, False], repeat=3)]
DISTINCT = [options for options in EVERY if not options.replacement]


def codes(members: Tensor) -> list[int]:
    """Return a number for each coalition, exact for few features."""
    return (members * 2 ** torch.arange(members.shape[1])).sum(1).tolist()


def counts_by_size(members: Tensor) -> list[int]:
    return members.sum(1).bincount(minlength=members.shape[1] + 1).tolist()


@pytest.mark.parametrize("options", DISTINCT)
@pytest.mark.parametrize("n_features", [2, 3, 4, 5, 8])
def test_a_budget_for_all_gives_all_coalitions_once(n_features: int, options: Options) -> None:
    found = drawn(n_features, 1000, 0, options)
    here = set(codes(found.members))
    everybody = 2**n_features - 1
    if options.paired:
        assert all(everybody - code not in here for code in here)
        here |= {everybody - code for code in here}
    assert here == set(range(1, everybody))
    n_all = options.all_of(n_features)
    assert len(found.members) == n_all
    assert found.is_complete(n_all)
    assert not found.is_complete(n_all - 1)


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize(("n_features", "n_coalitions"), [(2, 3), (7, 20), (16, 100), (300, 60)])
def test_no_coalition_is_empty_full_or_asked_twice(
    n_features: int, n_coalitions: int, options: Options
) -> None:
    members = drawn(n_features, n_coalitions, 1, options).members
    sizes = members.sum(1)
    assert (sizes > 0).all()
    assert (sizes < n_features).all()
    if options.paired:
        assert (2 * sizes <= n_features).all()
        assert members[2 * sizes == n_features, 0].all()
    if options.replacement:
        assert len(members) == n_coalitions
    else:
        assert (
            len(torch.unique(members, dim=0))
            == len(members)
            == min(n_coalitions, options.all_of(n_features))
        )


def test_sizes_get_as_many_and_those_that_are_full_leave_the_rest_to_others() -> None:
    found = drawn(10, 180, 0, Options()).members
    # 10 of size 1, 45 of size 2, and 125 left for 3, 4 and half as many for halves, 50 : 50 : 25
    assert counts_by_size(found) == [0, 10, 45, 50, 50, 25, 0, 0, 0, 0, 0]
    unpaired = drawn(6, 40, 0, Options(paired=False)).members
    # 6 of sizes 1 and 5, 28 left for 2, 3 and 4
    counts = counts_by_size(unpaired)
    assert counts[1] == counts[5] == 6
    assert sorted(counts[2:5]) == [9, 9, 10]


@pytest.mark.parametrize("options", EVERY)
def test_the_beginning_has_the_same_form_as_the_whole(options: Options) -> None:
    found = drawn(12, 200, 3, options)
    if not options.stratified:
        assert (found.times.diff() >= 0).all()
        return
    for n_first in (20, 50, 110):
        counts = torch.tensor(counts_by_size(found.members[:n_first])).double()
        shares = counts / design._shares(12, paired=options.paired)
        is_open = counts < subsets.numbers(12, paired=options.paired)
        if options.replacement:
            is_open = counts > 0
        open_shares = shares[is_open & shares.isfinite()]
        # turns of a size with half the share come every second time
        assert open_shares.max() - open_shares.min() <= 2


def test_a_design_follows_from_its_seed() -> None:
    first = drawn(12, 100, 5, Options()).members
    design.drawn.cache_clear()
    assert torch.equal(drawn(12, 100, 5, Options()).members, first)
    assert not torch.equal(drawn(12, 100, 6, Options()).members, first)
    assert drawn(12, 100, 5, Options()) is drawn(12, 100, 5, Options())


@pytest.mark.parametrize("options", EVERY)
def test_weighted_sums_estimate_sums_over_all_coalitions(options: Options) -> None:
    """A sum of kernel times size: by its law exact where sizes are strata, else to sampling."""
    n_features, n_coalitions = 9, 100
    every = range(1, n_features)
    kernel = {s: 1 / (s * (n_features - s)) for s in every}
    expected = sum(kernel[s] * min(s, n_features - s) for s in every) / sum(kernel.values())
    means = []
    for seed in range(20):
        found = drawn(n_features, n_coalitions, seed, options)
        weights, chances = found.weights(len(found.members))
        sizes = found.members.sum(1)
        depth = torch.minimum(sizes, n_features - sizes)
        means.append((weights * depth).sum() / weights.sum())
        assert (chances >= 0).all()
        assert (chances <= 1).all()
        assert (chances == 0).all() == options.replacement
    found_means = torch.stack(means)
    spread = 0.0 if options.stratified else found_means.std().item() / math.sqrt(20)
    assert found_means.mean().item() == pytest.approx(expected, abs=1e-9 + 4 * spread)


def test_random_coalitions_of_a_size_do_not_know_one_feature_from_another() -> None:
    times = torch.zeros(14, dtype=torch.float64)
    n_designs = 60
    for seed in range(n_designs):
        members = drawn(14, 90, seed, Options(paired=False)).members
        times += members.double().mean(0)
    # 60 * 90 coalitions of which half have the feature: five standard errors
    assert (times / n_designs - 0.5).abs().max() < 5 * 0.5 / math.sqrt(n_designs * 90)


def test_numbers_and_lists_of_sets_are_those_of_combinations() -> None:
    for n_features in range(2, 8):
        unpaired = subsets.numbers(n_features, paired=False)
        paired = subsets.numbers(n_features, paired=True)
        for size in range(1, n_features):
            expected = set(combinations(range(n_features), size))
            found = subsets.every(n_features, size, paired=False)
            assert {tuple(row.nonzero().flatten().tolist()) for row in found} == expected
            assert unpaired[size] == len(expected) == len(found)
            halves = subsets.every(n_features, size, paired=True)
            if 2 * size <= n_features:
                assert paired[size] == len(halves)
    assert (subsets.numbers(5000, paired=True)[1:2501] > 0).all()


def test_many_features_need_little_memory_and_no_exact_binomials() -> None:
    found = drawn(1500, 300, 0, Options())
    weights, chances = found.weights(300)
    assert found.members.shape == (300, 1500)
    assert weights.isfinite().all()
    assert chances.isfinite().all()
