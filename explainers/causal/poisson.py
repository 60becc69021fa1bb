"""Poisson bootstrap: how often each replicate draws a sample, known from the sample's index alone.

A bootstrap replicate draws each of n samples a multinomial number of times, for which all of them
have to be known. With independent Poisson counts of mean 1 instead (Chamandy, Muralidharan, Najmi
and Naidu 2012, "Estimating uncertainty for massive data streams", Google technical report 43157)
shards draw on their own, and weighted sums of shards add up.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import factorial
from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.sampling.counted import numbered, words

if TYPE_CHECKING:
    from torch import Tensor

_BITS = 53
"""Of a word that are compared with the distribution; so many int64 hold as positive numbers."""


@torch.no_grad()
def weights(index: Tensor, n_replicates: int, seed: int) -> Tensor:
    """Return how often each bootstrap replicate draws each sample.

    Independent Poisson(1) numbers, by inversion of whole numbers: the same bits for a sample on
    every device, whatever samples are beside it; fewer replicates are the first of more.

    Parameters
    ----------
    index
        Of the samples in the data set, int64 ``(rows,)``.
    n_replicates
        How many replicates there are; 0 for none.
    seed
        Of the run; another one gives replicates independent of these.

    Returns
    -------
    Tensor
        Counts as float64, ``(replicates, rows)``, as they are multiplied with effects.
    """
    numeric.check_whole("n_replicates", n_replicates, 0)
    streams = numbered(index, f"poisson bootstrap {seed}")
    drawn = (words(streams, n_replicates) >> 64 - _BITS).bitwise_and_((1 << _BITS) - 1)
    steps = torch.tensor(_steps(), device=index.device)
    return torch.bucketize(drawn, steps, right=True).T.double()


@lru_cache(maxsize=1)
def _steps() -> tuple[int, ...]:
    """Return where the count goes up: the distribution function in units of ``2**-53``, below 1."""
    # in fractions, because libraries round exponentials differently
    nought = sum((Fraction((-1) ** k, factorial(k)) for k in range(30)), Fraction(0))
    total, steps = Fraction(0), []
    for count in range(30):
        total += nought / factorial(count)
        steps.append(int(total * 2**_BITS))
    return tuple(step for step in steps if step < 2**_BITS)
