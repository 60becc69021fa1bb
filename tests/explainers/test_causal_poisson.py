"""Counts of the Poisson bootstrap: from a sample's index alone, distributed as they say."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import pytest
import torch

from explainers.causal import poisson

MASK = (1 << 64) - 1


def mixed(word: int) -> int:
    """SplitMix64's mixer (Steele, Lea and Flood 2014) in whole numbers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


def count(index: int, replicate: int, seed: int) -> int:
    """The smallest k at which the distribution function exceeds a uniform number."""
    digest = hashlib.sha256(f"poisson bootstrap {seed}".encode()).digest()
    stream = mixed((index & MASK) ^ int.from_bytes(digest[:8], "little"))
    word = mixed(stream + (replicate + 1) * 0x9E3779B97F4A7C15 & MASK)
    uniform = Fraction(word >> 11, 1 << 53)
    k, total = 0, math.exp(-1)
    while uniform >= total:
        k += 1
        total += math.exp(-1) / math.factorial(k)
    return k


def test_counts_are_found_by_inversion_of_words_of_the_index() -> None:
    index = torch.tensor([0, 1, 17, 2**40, 999])
    found = poisson.weights(index, 8, 5)
    assert found.dtype == torch.float64
    assert found.tolist() == [[count(i, r, 5) for i in index.tolist()] for r in range(8)]


def test_counts_depend_on_neither_neighbours_nor_order_nor_the_number_of_replicates() -> None:
    whole = poisson.weights(torch.arange(50), 7, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(poisson.weights(order[:9], 7, 3), whole[:, order[:9]])
    assert torch.equal(poisson.weights(torch.arange(50), 4, 3), whole[:4])
    assert not torch.equal(poisson.weights(torch.arange(50), 7, 4), whole)
    assert poisson.weights(torch.arange(3), 0, 3).shape == (0, 3)


def test_counts_are_poisson_and_replicates_and_samples_independent() -> None:
    found = poisson.weights(torch.arange(4000), 10, 0)
    n_draws = found.numel()
    for k in range(6):
        expected = math.exp(-1) / math.factorial(k)
        # five standard errors of a share
        bound = 5 * math.sqrt(expected * (1 - expected) / n_draws)
        assert abs((found == k).double().mean().item() - expected) < bound
    assert torch.corrcoef(found).fill_diagonal_(0).abs().max() < 5 / math.sqrt(4000)
    neighbours = torch.stack([found[:, :-1].flatten(), found[:, 1:].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 5 / math.sqrt(n_draws)


def test_a_number_of_replicates_below_none_is_refused() -> None:
    with pytest.raises(ValueError, match="n_replicates=-1"):
        poisson.weights(torch.arange(3), -1, 0)
