"""Sets of features by size: how many there are, all of them, and random ones that differ."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_MANY = 1e300
"""Stands for numbers of sets that a float cannot hold; they are divided by, and never reached."""

_AT_ONCE = 2**22
"""Random numbers that are sorted at once."""


@lru_cache(maxsize=16)
def numbers(n_features: int, *, paired: bool) -> Tensor:
    """Return how many sets of each size there are, float64 ``(features + 1,)``.

    None and all features do not count. Of a pair, a set and its complement, the smaller member
    counts; of two halves the one that has the first feature.
    """
    found = torch.zeros(n_features + 1, dtype=torch.float64)
    number = 1
    for size in range(1, n_features // 2 + 1):
        number = number * (n_features - size + 1) // size
        found[size] = float(min(number, int(_MANY)))
    if paired:
        if n_features % 2 == 0 and n_features:
            found[n_features // 2] /= 2
        return found
    larger = torch.arange(n_features // 2 + 1, n_features)
    found[larger] = found[n_features - larger]
    return found


def every(n_features: int, size: int, *, paired: bool) -> Tensor:
    """Return all sets of a size, bool ``(sets, features)``; of two halves one, where paired."""
    if paired and 2 * size == n_features:
        others = torch.tensor(list(combinations(range(1, n_features), size - 1)), dtype=torch.int64)
        places = torch.cat([others.new_zeros(len(others), 1), others], 1)
    else:
        places = torch.tensor(list(combinations(range(n_features), size)))
    return torch.zeros(len(places), n_features, dtype=torch.bool).scatter_(1, places, value=True)


def random(sizes: Tensor, n_features: int, generator: torch.Generator, *, paired: bool) -> Tensor:
    """Return independent random sets of given sizes, bool ``(sets, features)``."""
    pieces = torch.split(sizes, max(1, _AT_ONCE // n_features))
    some = [_random(piece, n_features, generator) for piece in pieces]
    members = torch.cat(some) if some else torch.zeros(0, n_features, dtype=torch.bool)
    if paired:
        members ^= ((2 * sizes == n_features) & ~members[:, 0])[:, None]
    return members


def _random(sizes: Tensor, n_features: int, generator: torch.Generator) -> Tensor:
    order = torch.rand(len(sizes), n_features, generator=generator).argsort(1)
    first = torch.arange(n_features) < sizes[:, None]
    return torch.zeros_like(first).scatter_(1, order, first)


def distinct(
    wanted: Callable[[Tensor], Tensor],
    n_features: int,
    generator: torch.Generator,
    *,
    paired: bool,
) -> tuple[Tensor, Tensor]:
    """Return random sets that all differ, and the number of the draw that each came with.

    Parameters
    ----------
    wanted
        From the sizes that were found, int64, to the sizes that are drawn next; none at the end.
        What was there before is dropped, so that this is sampling without replacement.
    n_features
        Of the game.
    generator
        On the CPU.
    paired
        Whether a half and its complement are the same.

    Returns
    -------
    tuple of Tensor
        Bool ``(sets, features)`` and float64 ``(sets,)``, from 1 on.
    """
    lots = torch.randint(-(2**62), 2**62, (n_features,), generator=generator)
    members = torch.zeros(0, n_features, dtype=torch.bool)
    times = torch.zeros(0, dtype=torch.float64)
    n_drawn = 0
    while len(sizes := wanted(members.sum(1))):
        more = random(sizes, n_features, generator, paired=paired)
        when = n_drawn + 1 + torch.arange(len(sizes), dtype=torch.float64)
        members, times = torch.cat([members, more]), torch.cat([times, when])
        is_new = _first_seen(members, lots)
        members, times = members[is_new], times[is_new]
        n_drawn += len(sizes)
    return members, times


def _first_seen(members: Tensor, lots: Tensor) -> Tensor:
    # two sets with the same sum of lots, modulo 2^64, would cost one of them a second draw
    sums = (members * lots).sum(1)
    _, which = torch.unique(sums, return_inverse=True)
    rows = torch.arange(len(members))
    first = rows.new_full((len(members),), len(members))
    first.scatter_reduce_(0, which, rows, "amin")
    return first[which] == rows
