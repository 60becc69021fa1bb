"""Projected gradients whose step lengths are guessed from the curvature that was just seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.iterating import Iterated, Point, Rows, State, either
from explainers.rate_distortion.solvers.problem import better, dots

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems, Solution

MEMORY = 5
"""Objectives of which the largest is not to be exceeded: 1 takes half as many steps again."""

AHEAD = 3
"""How many times the rate is that of the steps ahead: with 1.5 or 2, or after Frank-Wolfe's steps,
more digits of LeNet end in worse minima, and nothing is gained from more stages."""

ARMIJO = 1e-4
"""Share of the promised decrease that a step has to keep."""


@dataclass(frozen=True)
class SpectralProjectedGradient(Iterated):
    """Projected gradients with steps of Barzilai and Borwein, not monotone.

    Towards ``p = P(s - a g) - s``, with P the nearest legal mask and ``a = <ds, ds> / <ds, dg>`` of
    the last step, goes ``s <- s + b p``; b is one, and smaller only where the objective exceeds the
    largest of the last five (Birgin, Martinez and Raydan 2000, doi:10.1137/S1052623497330963). It
    serves bounds of the rate and prices of it. Every step is one evaluation of every row: a row
    whose step was refused tries a shorter one while others go on. The gap of `FrankWolfe` tells
    when to stop; distortions are those of ten times as many of its steps.

    The distortion is not convex, and behind a small rate everywhere nothing of the input is seen
    that gradients could tell apart. Where the rate is bounded, a few steps are therefore taken with
    thrice the rate, and go on from the nearest mask of the rate itself.
    """

    n_steps: int = 100
    """Evaluations at most."""
    tolerance: float = 1e-2
    """Of the gap, relative to the objective."""
    n_ahead: int = 10
    """Evaluations, of these, at thrice the rate; 0 to go on from the start, which then is a mask
    that is good already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numeric.check_whole("n_ahead", self.n_ahead, 0)

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best of the masks that were passed; starts are moved to the nearest legal.

        It is never worse than the start, if that is legal.
        """
        n_ahead = min(self.n_ahead, self.n_steps - 2)
        if problems.rate is None or n_ahead < 1:
            return super().solve(distortion, problems)
        wide = replace(problems, rate=(AHEAD * problems.rate).clamp(max=1))
        ahead = replace(self, n_steps=n_ahead, n_ahead=0).solve(distortion, wide)
        rest = replace(self, n_steps=self.n_steps - n_ahead - 1, n_ahead=0)
        found = rest.solve(distortion, replace(problems, start=ahead.mask))
        started = replace(self, n_steps=1, n_ahead=0).solve(distortion, problems)
        chosen = better(found, started)
        return replace(chosen, n_iterations=chosen.n_iterations + ahead.n_iterations)

    def begin(self, mask: Tensor) -> State:
        """Return a state that takes whatever comes first."""
        unknown = mask.new_full((len(mask),), torch.inf)
        return {
            "mask": mask,
            "gradient": torch.zeros_like(mask),
            "objective": unknown,
            "towards": torch.zeros_like(mask),  # p
            "length": torch.ones_like(unknown),  # a
            "share": torch.ones_like(unknown),  # b, in (0, 1]
            "recent": unknown[:, None].repeat(1, MEMORY),
        }

    def advance(self, state: State, rows: Rows, point: Point, step: int) -> Tensor:
        """Return the candidates along the ways of all problems."""
        promised = state["share"] * dots(state["gradient"], state["towards"])  # < 0
        rounding = 4 * rows.eps * state["objective"].abs()
        is_taken = point.objective <= state["recent"].amax(1) + ARMIJO * promised + rounding
        state["length"] = either(is_taken, _longer(state, point, step), state["length"])
        shorter = _shorter(state, point, promised)
        state["share"] = either(is_taken, torch.ones_like(shorter), shorter)
        n_kept = MEMORY - 1 if step else 0
        last = point.objective[:, None].expand(-1, MEMORY - n_kept)
        recent = torch.cat([state["recent"][:, MEMORY - n_kept :], last], 1)
        for name in ("mask", "gradient", "objective"):
            state[name] = either(is_taken, getattr(point, name), state[name])
        # the nearest legal mask after a step down the gradient
        below = point.mask - state["length"][:, None] * point.gradient
        towards = rows.feasible.nearest(below) - point.mask
        state["towards"] = either(is_taken, towards, state["towards"])
        state["recent"] = either(is_taken, recent, state["recent"])
        return (state["mask"] + state["share"][:, None] * state["towards"]).clamp(0, 1)


def _longer(state: State, point: Point, step: int) -> Tensor:
    """Return the inverse curvature along the step; four times the last where it is none.

    The first step changes the steepest entry by one.
    """
    if not step:
        return 1 / point.gradient.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    squared = state["share"] * dots(state["towards"], state["towards"])
    bend = dots(point.gradient - state["gradient"], state["towards"])
    inverse = squared / torch.where(bend > 0, bend, torch.ones_like(bend))
    last = state["length"]
    return torch.where(bend > 0, inverse, 4 * last).clamp(max=last * 1e4)


def _shorter(state: State, point: Point, promised: Tensor) -> Tensor:
    """Return the least of the parabola through what is known, within a tenth and a half."""
    share = state["share"]
    excess = point.objective - state["objective"] - promised
    least = -0.5 * promised * share / excess.clamp(min=torch.finfo(excess.dtype).tiny)
    return least.maximum(0.1 * share).minimum(0.5 * share)
