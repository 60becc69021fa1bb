"""The experiment on strings with a block of ones: what is relevant is known, and it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import explainers
from configs.boolean_strings import load

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.spreads import Mode

BERNOULLI = ("1001011111000000", 5)
DESIGNED = ("0110110010111110", 10)
GRID = torch.logspace(-5, 0, 10, dtype=torch.float64)
WITHIN = tuple(GRID[(GRID > 1e-3) & (GRID < 0.3)].tolist())
"""The five of the original's ten multipliers from 1.67e-3 to 0.278."""


def string(bits: str) -> Tensor:
    return torch.tensor([float(bit) for bit in bits], dtype=torch.float64)[None, None, None]


def masks_of(
    bits: str, mode: Mode, multipliers: tuple[float, ...] = WITHIN, **fields: Any
) -> Tensor:
    """Masks (multiplier, position) with uniform noise from the original's start."""
    method = explainers.get("rate_distortion")(
        load().double(),
        noise={"uniform": [0, 1]},
        mode=mode,
        multipliers=multipliers,
        start=0.5,
        n_verify=0,
        **fields,
    )
    return method.explain(string(bits)).arrays["masks"].flatten(2)[0]


@pytest.mark.parametrize(("bits", "start"), [BERNOULLI, DESIGNED], ids=["bernoulli", "designed"])
def test_the_block_alone_suffices(bits: str, start: int) -> None:
    """By trying all sets: the answer rises with every value, so that zeros are the worst noise."""
    kept = (torch.arange(2**16)[:, None] >> torch.arange(16) & 1).float()
    with torch.no_grad():
        is_enough = load()((kept * string(bits).flatten().float())[:, None, None])[:, 1] == 1
    has_block = kept[:, start : start + 5].all(1)
    assert torch.equal(is_enough, has_block)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["diag", "half", "full"])
@pytest.mark.parametrize(("bits", "start"), [BERNOULLI, DESIGNED], ids=["bernoulli", "designed"])
def test_the_block_is_most_relevant(bits: str, start: int, mode: Mode) -> None:
    for mask in masks_of(bits, mode, optimiser="lbfgsb"):
        best = mask.argsort(descending=True, stable=True)[:5]
        assert sorted(best.tolist()) == list(range(start, start + 5))
        # no tie: at 1.67e-3 a lone one keeps 0.8 in mode diag
        kept, left = mask[start : start + 5].min(), mask.sort(descending=True).values[5]
        assert kept > left + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["diag", "half", "full"])
def test_the_default_solver_finds_it_too(mode: Mode) -> None:
    bits, start = BERNOULLI
    for mask in masks_of(bits, mode):
        best = mask.argsort(descending=True, stable=True)[:5]
        assert sorted(best.tolist()) == list(range(start, start + 5))


@pytest.mark.slow
def test_the_ordering_of_several_rates_begins_with_the_block() -> None:
    method = explainers.get("rate_distortion")(
        load().double(), noise={"uniform": [0, 1]}, solver="ordering", n_verify=0
    )
    for bits, start in (BERNOULLI, DESIGNED):
        relevance = method.explain(string(bits)).relevance.flatten()
        best = relevance.argsort(descending=True, stable=True)[:5]
        assert sorted(best.tolist()) == list(range(start, start + 5))


@pytest.mark.slow
def test_half_with_all_rows_is_full() -> None:
    half, full = (masks_of(BERNOULLI[0], mode, optimiser="lbfgsb") for mode in ("half", "full"))
    # the same walk in float64, but for rounding
    torch.testing.assert_close(half, full, atol=1e-3, rtol=0)
