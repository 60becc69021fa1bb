"""Which coalitions are looked at: designs that all rows share, each a prefix of longer ones.

A design depends on the number of features, its length, a seed and its options alone. Its law does
not know one feature from another, so that estimators inherit the symmetry axiom from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from explainers.shapley import subsets

if TYPE_CHECKING:
    from torch import Tensor

_AFFORDABLE = 4
"""All sets of a size are listed, and some taken, where there are at most this many times as many;
drawing until enough differ would take longer."""


@dataclass(frozen=True)
class Options:
    """How coalitions are chosen."""

    paired: bool = True
    """Whether each coalition comes with its complement (Covert and Lee 2021, arXiv:2012.01536)."""
    stratified: bool = True
    """Whether every size gets as many coalitions, as far as it has them: the leverage scores of the
    regression are the same for all sizes (Musco and Witter 2025, arXiv:2410.01917). Otherwise sizes
    are drawn by the Shapley kernel, ``p(s) ~ 1 / (s (n - s))``, as in Captum."""
    replacement: bool = False
    """Whether a coalition may come several times."""

    def all_of(self, n_features: int) -> int:
        """Return how many coalitions there are besides none and all; pairs, where paired."""
        every = (1 << n_features) - 2
        return every // 2 if self.paired else every


@dataclass(frozen=True, eq=False)
class Design:
    """Coalitions in the order in which they are evaluated; of each pair the smaller member.

    Any number of them from the first on is a design of its own.
    """

    members: Tensor
    """Bool ``(coalitions, features)``, on the CPU."""
    times: Tensor
    """When each was drawn, float64 ``(coalitions,)``; looked at where sizes are random."""
    options: Options

    @property
    def n_features(self) -> int:
        """Of the game."""
        return self.members.shape[1]

    def is_complete(self, n_first: int) -> bool:
        """Return whether the first ones are all that there are."""
        return not self.options.replacement and n_first == self.options.all_of(self.n_features)

    def weights(self, n_first: int) -> tuple[Tensor, Tensor]:
        """Return regression weights of the first ones, and their chances of being among them.

        A weight is the Shapley kernel divided by the chance, up to a constant, so that sums over
        the design estimate sums over all coalitions. The chance counts as 0 with replacement.
        """
        paired = self.options.paired
        sizes = self.members[:n_first].sum(1)
        numbers = subsets.numbers(self.n_features, paired=paired)[sizes]
        mass = _mass(self.n_features, paired=paired)
        if self.options.stratified:
            counts = sizes.bincount(minlength=1)[sizes].double()
            chances = torch.zeros_like(counts) if self.options.replacement else counts / numbers
            return mass[sizes] / counts, chances
        if self.options.replacement or not n_first:
            return torch.ones_like(numbers), torch.zeros_like(numbers)
        laws = mass[sizes] / mass.sum() / numbers
        if self.is_complete(n_first):
            return laws, torch.ones_like(laws)
        chances = -torch.expm1(-laws * self.times[n_first - 1])
        return laws / chances, chances


@lru_cache(maxsize=8)
def drawn(n_features: int, n_coalitions: int, seed: int, options: Options) -> Design:
    """Return a design of as many coalitions (pairs, where paired), or of all that there are."""
    if not options.replacement:
        n_coalitions = min(n_coalitions, options.all_of(n_features))
    generator = torch.Generator().manual_seed(seed)
    choose = _stratified if options.stratified else _by_the_kernel
    if n_coalitions < 1 or n_features < 2:
        nothing = torch.zeros(0, n_features)
        return Design(nothing.bool(), nothing.sum(1).double(), options)
    members, times = choose(n_features, n_coalitions, generator, options)
    order = times.argsort(stable=True)
    return Design(members[order], times[order], options)


def _mass(n_features: int, *, paired: bool) -> Tensor:
    """Return the Shapley kernel summed over the coalitions of a size, ``1 / (s (n - s))``."""
    sizes = torch.arange(n_features + 1, dtype=torch.float64)
    mass = 1 / (sizes * (n_features - sizes)).clamp(min=1)
    # in a pair both members count, so that one half counts half
    return mass * _shares(n_features, paired=paired)


def _shares(n_features: int, *, paired: bool) -> Tensor:
    """Return what each size asks for, relative to the others."""
    sizes = torch.arange(n_features + 1)
    shares = ((sizes > 0) & (sizes < n_features)).double()
    if paired:
        shares[2 * sizes > n_features] = 0
        shares[2 * sizes == n_features] /= 2
    return shares


def _by_the_kernel(
    n_features: int, n_coalitions: int, generator: torch.Generator, options: Options
) -> tuple[Tensor, Tensor]:
    """Return coalitions whose sizes are random, and when they were drawn."""
    paired = options.paired
    mass = _mass(n_features, paired=paired)

    def sizes(n_wanted: int) -> Tensor:
        return mass.multinomial(n_wanted, replacement=True, generator=generator)

    def missing(found: Tensor) -> Tensor:
        n_missing = n_coalitions - len(found)
        return sizes(n_missing) if n_missing else found[:0]

    if options.replacement:
        members = subsets.random(sizes(n_coalitions), n_features, generator, paired=paired)
        return members, torch.arange(n_coalitions, dtype=torch.float64) + 1
    if options.all_of(n_features) > _AFFORDABLE * n_coalitions:
        return subsets.distinct(missing, n_features, generator, paired=paired)
    # the same law: of all coalitions, each waits as long as its first draw takes in the mean
    numbers = subsets.numbers(n_features, paired=paired)
    of_all = numbers.nonzero().flatten().tolist()
    members = torch.cat([subsets.every(n_features, size, paired=paired) for size in of_all])
    laws = (mass / mass.sum() / numbers)[members.sum(1)]
    waits = torch.empty_like(laws).exponential_(generator=generator) / laws
    times, first = waits.topk(n_coalitions, largest=False)
    return members[first], times


def _stratified(
    n_features: int, n_coalitions: int, generator: torch.Generator, options: Options
) -> tuple[Tensor, Tensor]:
    """Return coalitions of all sizes, and times at which sizes take turns."""
    paired = options.paired
    offsets = torch.rand(n_features + 1, generator=generator, dtype=torch.float64)
    shares = _shares(n_features, paired=paired)
    numbers = subsets.numbers(n_features, paired=paired)
    room = torch.full_like(numbers, torch.inf) if options.replacement else numbers
    counts = _allotted(n_coalitions, shares, room.masked_fill(shares == 0, 0), offsets)
    listed = room <= _AFFORDABLE * counts
    parts = [torch.zeros(0, n_features, dtype=torch.bool)]
    for size in (listed & (counts > 0)).nonzero().flatten().tolist():
        all_of = subsets.every(n_features, size, paired=paired)
        parts.append(all_of[torch.randperm(len(all_of), generator=generator)[: counts[size]]])
    others = counts.masked_fill(listed, 0)

    def missing(found: Tensor) -> Tensor:
        n_missing = others - found.bincount(minlength=n_features + 1)
        return torch.arange(n_features + 1).repeat_interleave(n_missing)

    if options.replacement:
        every = missing(others[:0])
        parts.append(subsets.random(every, n_features, generator, paired=paired))
    else:
        parts.append(subsets.distinct(missing, n_features, generator, paired=paired)[0])
    members = torch.cat(parts)
    sizes = members.sum(1)
    return members, (_ranks(sizes) + offsets[sizes]) / shares[sizes]


def _allotted(n_coalitions: int, shares: Tensor, room: Tensor, offsets: Tensor) -> Tensor:
    """Return how many coalitions each size gets: by its share, and never more than there are.

    What a size has no room for goes on to the others.
    """
    counts = torch.zeros_like(shares)
    while True:
        is_open = counts < room
        level = (n_coalitions - counts[~is_open].sum()) / shares[is_open].sum()
        filled = is_open & (room <= level * shares)
        if not filled.any():
            break
        counts[filled] = room[filled]
    counts[is_open] = (level * shares)[is_open].floor()
    next_times = ((counts + offsets) / shares).masked_fill(~is_open, torch.inf)
    n_left = n_coalitions - int(counts.sum())
    counts[next_times.argsort()[:n_left]] += 1
    return counts.long()


def _ranks(sizes: Tensor) -> Tensor:
    """Return which of its size each is, in order, from 0 on."""
    order = sizes.argsort(stable=True)
    counts = sizes.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(sizes)
    ranks[order] = torch.arange(len(sizes)) - starts[sizes[order]]
    return ranks
