"""Words by number are those of SplitMix, one after the other."""

from __future__ import annotations

import torch

from explainers.sampling import counted

MASK = (1 << 64) - 1


class SplitMix:
    """The generator as its authors state it, in whole numbers of Python."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def next(self) -> int:
        self.state = self.state + 0x9E3779B97F4A7C15 & MASK
        mixed = (self.state ^ self.state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
        return mixed ^ mixed >> 31


def test_words_are_those_of_the_generator() -> None:
    seeds = [0, 1, -7, 2**63 - 1]
    streams = [SplitMix(seed) for seed in seeds]
    expected = [[stream.next() for _ in range(5)] for stream in streams]
    found = counted.words(torch.tensor(seeds), 5)
    assert [[word & MASK for word in row] for row in found.tolist()] == expected
    third = counted.word(torch.tensor(seeds), torch.tensor(2))
    assert torch.equal(third, found[:, 2])


def test_uniform_numbers_are_the_upper_bits_in_every_dtype() -> None:
    seeds = torch.tensor([3, 4])
    numbers = counted.uniform(seeds, 4, torch.float64)
    assert numbers.tolist() == [
        [(word & MASK) / 2**64 // 2**-24 * 2**-24 for word in row]
        for row in counted.words(seeds, 4).tolist()
    ]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(counted.uniform(seeds, 4, dtype), numbers.to(dtype))


def test_numbers_of_neighbouring_streams_are_uniform_and_independent() -> None:
    seeds = counted.word(torch.arange(200), torch.tensor(0))
    numbers = counted.uniform(seeds, 100, torch.float64)
    # 20,000 numbers: standard errors 2e-3 of the mean and 5e-4 of the variance; five of each
    assert abs(float(numbers.mean()) - 1 / 2) < 1e-2
    assert abs(float(numbers.var()) - 1 / 12) < 2.6e-3
    for one, other in ((numbers[:-1], numbers[1:]), (numbers[:, :-1], numbers[:, 1:])):
        together = torch.stack([one.flatten(), other.flatten()])
        assert abs(float(torch.corrcoef(together)[0, 1])) < 5 / 20_000**0.5


def test_seeds_are_not_changed() -> None:
    seeds = torch.tensor([5, 6])
    counted.uniform(seeds, 3, torch.float32)
    assert seeds.tolist() == [5, 6]
