"""Bounded rates are met after a few steps with a wider bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from explainers import numeric
from explainers.rate_distortion.solvers.iterating import Iterated
from explainers.rate_distortion.solvers.problem import better

if TYPE_CHECKING:
    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems, Solution

WIDER = 3
"""How many times the rate is that of the steps ahead, at least."""

WIDE = 0.5
"""Rate of the steps ahead, at least: behind uniform noise LeNet answers to nothing below."""


@dataclass(frozen=True)
class Widened(Iterated):
    """A solver that begins at a rate that shows more of a sample than is asked for.

    The distortion is not convex, and behind a small rate everywhere nothing of the input is seen
    that gradients could tell apart. Where the rate is bounded, a few steps are therefore taken with
    thrice the rate, or a half, and go on from the nearest mask of the rate itself. What is found
    may then be another minimum than that of a problem with a price: from a half, at the rates of
    the masks for the multipliers 0.1 and 0.5, spectral steps leave eight digits of LeNet a mean of
    0.91 and 0.99 times the distortion of those, and up to 1.07 times, behind the digits'
    statistics, and 0.74 and 0.95 times, up to 1.3 times, behind uniform noise; Frank-Wolfe's leave
    up to 1.13 and 3.7 times. From those masks themselves neither is ever worse.
    """

    n_ahead: int = 10
    """Evaluations, of `n_steps`, at the wider rate, a quarter at most; 0 to go on from the start,
    which then is a mask that is good already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numeric.check_whole("n_ahead", self.n_ahead, 0)

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best of the masks that were passed; starts are moved to the nearest legal.

        It is never worse than the start, if that is legal.
        """
        n_ahead = min(self.n_ahead, self.n_steps // 4)
        if problems.rate is None or not n_ahead:
            return super().solve(distortion, problems)
        rate = (WIDER * problems.rate).clamp(WIDE, 1)
        found = replace(self, n_steps=n_ahead, n_ahead=0).solve(
            distortion, replace(problems, rate=rate)
        )
        rest = replace(self, n_steps=self.n_steps - n_ahead - 1, n_ahead=0)
        last = rest.solve(distortion, replace(problems, start=found.mask))
        started = replace(self, n_steps=1, n_ahead=0).solve(distortion, problems)
        chosen = better(last, started)
        return replace(chosen, n_iterations=chosen.n_iterations + found.n_iterations)
