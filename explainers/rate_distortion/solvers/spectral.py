"""Projected gradients whose step lengths are guessed from the curvature that was just seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.rate_distortion.solvers.iterating import Point, Rows, State, either
from explainers.rate_distortion.solvers.problem import dots
from explainers.rate_distortion.solvers.widened import Widened

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 5
"""Objectives of which the largest is not to be exceeded: 1 takes half as many steps again."""

ARMIJO = 1e-4
"""Share of the promised decrease that a step has to keep."""


@dataclass(frozen=True)
class SpectralProjectedGradient(Widened):
    """Projected gradients with steps of Barzilai and Borwein, not monotone.

    Towards ``p = P(s - a g) - s``, with P the nearest legal mask and ``a = <ds, ds> / <ds, dg>`` of
    the last step, goes ``s <- s + b p``; b is one, and smaller only where the objective exceeds the
    largest of the last five (Birgin, Martinez and Raydan 2000, doi:10.1137/S1052623497330963). It
    serves bounds of the rate and prices of it. Every step is one evaluation of every row: a row
    whose step was refused tries a shorter one while others go on. The gap of `FrankWolfe` tells
    when to stop; on digits distortions are less than after three to five times as many of its
    steps.
    """

    n_steps: int = 100
    """Evaluations at most."""
    tolerance: float = 1e-2
    """Of the gap, relative to the objective."""

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
