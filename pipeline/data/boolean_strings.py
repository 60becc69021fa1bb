"""Binary strings, with or without a block of ones: what matters for the block is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from pipeline.data.source import Record, Source, register

if TYPE_CHECKING:
    from torch import Tensor

MOST_DRAWS = 1_000
"""Backgrounds that are drawn until one has no block of its own."""


@register("boolean_strings")
@dataclass(frozen=True)
class BooleanStrings(Source):
    """Strings of zeros and ones, ``(1, 1, dimension)``, label 1 with a block of ones and 0 without.

    The mask of a string with a block is the block: in the others nothing is asked for. There is
    exactly one block, with a zero on either side of it. The network in ``configs.boolean_strings``
    reads them (the synthetic experiment of Macdonald et al. 2019, arXiv:1905.11092).

    Sample 0 is drawn from ``numpy.random.RandomState(seed)``, the position of the block first, if
    there is one, and then what is around it. With ``bernoulli`` the original draws the same after
    ``numpy.random.seed(seed)``, but leaves ones beside the block, and blocks by chance, as they
    come: with ``p: 0.05`` and ``seed: 1`` there are none, and it is the original's
    1001011111000000. Further samples have seeds of their own. That stream is frozen: no release of
    numpy changes it.
    """

    n_samples: int = 100
    """Number of strings."""
    dimension: int = 16
    """Length of a string."""
    block_size: int = 5
    """Ones in a block."""
    background: Literal["zero", "alternating", "bernoulli", "almost_block"] = "bernoulli"
    """What is around the block: zeros, a one every `skip` places, ones with probability `p`, or a
    block with a zero in its middle and a single one. With ``almost_block`` sample 0 is the
    original's 0110110010111110, and in others the order of the three and the gaps are drawn."""
    block: bool | Literal["both"] = True
    """Whether there is a block; `both`: in every other string, beginning with the first."""
    p: float = 0.1
    """Probability of a one, from 0 to below 1."""
    skip: int = 2
    """Distance of ones."""
    eta: float = 1.0
    """Distance between zeros and ones, above 0 and up to 1: at 1 strings are binary, below it
    zeros lie anywhere from 0 to (1 - eta) / 2 and ones from (1 + eta) / 2 to 1, which the network
    with a ramp of that width reads as the same string."""
    seed: int = 0
    """Seeds what is drawn; the run's seed does not."""

    def __post_init__(self) -> None:
        """Refuse strings that cannot be made."""
        for name, least in (("n_samples", 1), ("block_size", 2), ("skip", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"got {name} {getattr(self, name)}, expected at least {least}")
        if not 0 <= self.p < 1:
            raise ValueError(f"got p {self.p}, expected a probability below 1")
        if not 0 < self.eta <= 1:
            raise ValueError(f"got eta {self.eta}, expected a width above 0 and up to 1")
        is_almost = self.background == "almost_block"
        least = 2 * self.block_size + 5 if is_almost else self.block_size
        if self.dimension < least or (is_almost and self.block_size < 3):
            raise ValueError(
                f"got dimension {self.dimension} and block_size {self.block_size}, expected a "
                f"dimension of at least {least} for the background {self.background!r}"
                f"{' and blocks of at least 3' if is_almost else ''}"
            )

    def records(self) -> list[Record]:
        """Return the strings, by position."""
        return [
            Record(
                index,
                f"boolean_strings/{index:06d}",
                str(index),
                label=int(self._has_block(index)),
                mask=str(index) if self._has_block(index) else None,
            )
            for index in range(self.n_samples)
        ]

    def load(self, record: Record) -> Tensor:
        """Return one string."""
        generator = self._generator(int(record.source))
        bits, _ = self._drawn(int(record.source), generator)
        if self.eta < 1:
            depth = generator.uniform(0, (1 - self.eta) / 2, self.dimension)
            bits = np.where(bits > 0, 1 - depth, depth)
        return torch.from_numpy(bits.astype(np.float32))[None, None]

    def load_mask(self, record: Record) -> Tensor | None:
        """Return where the block is, ``(1, dimension)``."""
        index = int(record.source)
        if not self._has_block(index):
            return None
        _, start = self._drawn(index, self._generator(index))
        places = torch.arange(self.dimension)
        return ((places >= start) & (places < start + self.block_size))[None]

    @property
    def class_names(self) -> tuple[str, ...]:
        """What labels stand for."""
        return ("no block", "block")

    def _has_block(self, index: int) -> bool:
        return index % 2 == 0 if self.block == "both" else self.block

    def _generator(self, index: int) -> np.random.RandomState:
        return np.random.RandomState([self.seed, index] if index else self.seed)

    def _drawn(self, index: int, generator: np.random.RandomState) -> tuple[np.ndarray, int]:
        """Return bits and the first place of the block; of none, a place that means nothing."""
        if self.background == "almost_block":
            return self._designed(index, generator)
        has_block = self._has_block(index)
        start = generator.randint(0, self.dimension - self.block_size + 1) if has_block else 0
        stop = start + self.block_size
        for _ in range(MOST_DRAWS):
            bits = self._background(generator)
            if has_block:
                # a one beside the block would make a second one, shifted by a place
                bits[max(start - 1, 0) : stop + 1] = 0
                bits[start:stop] = 1
            if _count(bits, self.block_size) == has_block:
                return bits, start
        raise ValueError(
            f"none of {MOST_DRAWS} strings of {self.dimension} with p {self.p} was without a block "
            f"of {self.block_size} by chance; expected fewer ones: lower p, or lengthen the block"
        )

    def _background(self, generator: np.random.RandomState) -> np.ndarray:
        bits = np.zeros(self.dimension)
        if self.background == "alternating":
            bits[generator.randint(0, self.skip) :: self.skip] = 1
        elif self.background == "bernoulli":
            bits[:] = generator.binomial(1, self.p, self.dimension)
        return bits

    def _designed(self, index: int, generator: np.random.RandomState) -> tuple[np.ndarray, int]:
        """Return a broken block, a one and a block, with zeros between them."""
        pieces = [np.ones(self.block_size), np.ones(1), np.ones(self.block_size)]
        pieces[0][self.block_size // 2] = 0
        if not self._has_block(index):
            pieces[2] = pieces[0]
        n_free = self.dimension - 2 * self.block_size - 5
        order, gaps = np.arange(3), np.array([1, 1 + (n_free + 1) // 2, 1 + n_free // 2])
        if index:
            order = generator.permutation(3)
            # one zero between pieces; the others anywhere
            gaps = np.array([0, 1, 1]) + generator.multinomial(n_free + 2, [0.25] * 4)[:3]
        bits, place, start = np.zeros(self.dimension), 0, 0
        for gap, piece in zip(gaps, order, strict=True):
            place += int(gap)
            bits[place : place + len(pieces[piece])] = pieces[piece]
            start = place if piece == 2 else start
            place += len(pieces[piece])
        return bits, start


def _count(bits: np.ndarray, size: int) -> int:
    """Return the number of places at which a block of ones begins."""
    return int((np.convolve(bits, np.ones(size), mode="valid") >= size).sum())
