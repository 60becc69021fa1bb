"""Random numbers by number: any of a stream, on any device, without those before it.

Streams of SplitMix (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195): the word of number n
is a mix of ``seed + n * 0x9E3779B97F4A7C15``. A word can be the seed of another stream. Whoever
asks again gets the same bits, so nothing that several need has to be kept.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_STRIDE = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_BITS = 24
"""Of a uniform number: as many as float32 holds, so that it is the same in every dtype."""


def seed_of(text: str) -> int:
    """Return 64 bits of a text's SHA-256 as a signed number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def numbered(index: Tensor, text: str) -> Tensor:
    """Return a pseudo-random int64 for each index, different ones for different indices.

    The bits that the text says are flipped, then mixed.
    """
    return mix_(index ^ seed_of(text))


def mix_(words: Tensor) -> Tensor:
    """Mix int64 words in place and return them; a bijection of 64 bits."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        # products wrap around
        words.bitwise_xor_(_shifted(words, shift)).mul_(factor)
    return words.bitwise_xor_(_shifted(words, 31))


def word(seeds: Tensor, number: Tensor) -> Tensor:
    """Return the word of a number of each stream, int64; both broadcast."""
    return mix_(seeds + (number + 1) * _STRIDE)


def words(seeds: Tensor, n_words: int) -> Tensor:
    """Return the first words of each stream, int64 ``(streams, words)``."""
    return word(seeds[:, None], torch.arange(n_words, device=seeds.device))


def uniform(seeds: Tensor, n_numbers: int, dtype: torch.dtype) -> Tensor:
    """Return numbers from [0, 1) of each stream, ``(streams, numbers)``."""
    exact = torch.promote_types(dtype, torch.float32)  # float16 ends before 2**24
    return _shifted(words(seeds, n_numbers), 64 - _BITS).to(exact).mul_(2.0**-_BITS).to(dtype)


def _shifted(words: Tensor, shift: int) -> Tensor:
    # int64 shifts copy the sign bit, which the mask takes away
    return (words >> shift).bitwise_and_((1 << 64 - shift) - 1)
