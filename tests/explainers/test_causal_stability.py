"""Agreement of sets: Jaccard's index, and that of Nogueira, Sechidis and Brown (2018)."""

from __future__ import annotations

import torch

from explainers.causal import stability


def sets(seed: int, n_repeats: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(shape, generator=generator)
    return torch.rand((n_repeats, *shape), generator=generator) < share


def slow_nogueira(repeats: list[list[bool]]) -> float:
    """Definition 4 of the paper."""
    m, d = len(repeats), len(repeats[0])
    shares = [sum(row[f] for row in repeats) / m for f in range(d)]
    sizes = [sum(row) for row in repeats]
    mean_size = sum(sizes) / m
    chance = mean_size / d * (1 - mean_size / d)
    return 1 - sum(m / (m - 1) * p * (1 - p) for p in shares) / d / chance


def test_nogueira_is_that_of_the_paper() -> None:
    found = sets(0, 9, 3, 7)
    index = stability.nogueira(found)
    for place in range(3):
        expected = slow_nogueira(found[:, place].tolist())
        # sums of 63 numbers of size 1
        assert abs(index[place] - expected) < 1e-12


def test_nogueira_is_one_for_the_same_sets_and_about_zero_for_random_ones() -> None:
    same = torch.tensor([True, False, True, False]).expand(5, 4)
    assert stability.nogueira(same) == 1
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(50, 400, generator=generator) < 0.3
    # its standard error is about sqrt(2 / (repeats^2 neurons)) = 0.0014
    assert abs(stability.nogueira(random)) < 0.006
    halves = torch.tensor([[True, False], [False, True]])
    assert stability.nogueira(halves) == -1  # -1 / (M - 1)


def test_nogueira_is_undefined_where_sets_say_nothing() -> None:
    for nothing in (torch.zeros(4, 3), torch.ones(4, 3), torch.eye(3)[:1], torch.zeros(4, 0)):
        assert stability.nogueira(nothing.bool()).isnan().all()


def test_jaccard_is_the_share_of_common_members() -> None:
    left = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    right = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    assert stability.jaccard(left, right).tolist() == [1 / 3, 1, 0]
    assert stability.jaccard(left, right[0]).tolist() == [1 / 3, 0, 1 / 2]


def test_frequency_is_the_share_of_repeats() -> None:
    found = sets(1, 8, 2, 5)
    assert stability.frequency(found).tolist() == (found.sum(0) / 8).tolist()
    assert stability.frequency(found[:0]).isnan().all()
