"""Projected gradients whose step lengths are guessed from the curvature that was just seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.iterating import Point, Rows, begun, iterated
from explainers.rate_distortion.solvers.problem import dots

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
class SpectralProjectedGradient:
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
    """Stop at a gap of this times the objective."""
    n_ahead: int = 10
    """Evaluations, of these, at thrice the rate; 0 to go on from the start, which then is a mask
    that is good already."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_steps", self.n_steps)
        numeric.check_finite("tolerance", self.tolerance)
        numeric.check_whole("n_ahead", self.n_ahead, 0)

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best of the masks that were passed; starts are moved to the nearest legal.

        It is never worse than the start, if that is legal.
        """
        rows, start = begun(distortion, problems)
        n_ahead = min(self.n_ahead, self.n_steps - 2)
        if problems.rate is None or n_ahead < 1:
            return iterated(rows, _Spectral.begun(rows, start, start), self.n_steps, self.tolerance)
        wide = replace(problems, rate=(AHEAD * problems.rate).clamp(max=1))
        ahead = replace(self, n_steps=n_ahead, n_ahead=0).solve(distortion, wide)
        near = rows.point(rows.feasible.nearest(ahead.mask.flatten(1)))
        state = _Spectral.begun(rows, near, near.better(start))
        found = iterated(rows, state, self.n_steps - n_ahead - 1, self.tolerance)
        return replace(found, n_iterations=found.n_iterations + ahead.n_iterations + 1)


@dataclass(frozen=True, eq=False)
class _Spectral:
    """Where the iteration is, where it goes, and its best point."""

    point: Point
    best: Point
    towards: Tensor
    """p, ``(n, d)``."""
    length: Tensor
    """a, ``(n,)``."""
    share: Tensor
    """b, ``(n,)``, in (0, 1]."""
    recent: Tensor
    """The last objectives, ``(n, MEMORY)``."""

    @classmethod
    def begun(cls, rows: Rows, start: Point, best: Point) -> Self:
        """Return a state whose first step changes the steepest entry by one."""
        steepest = start.gradient.abs().amax(1)
        length = 1 / steepest.clamp(min=torch.finfo(steepest.dtype).tiny)
        recent = start.objective[:, None].repeat(1, MEMORY)
        towards = _towards(rows, start, length)
        return cls(start, best, towards, length, torch.ones_like(length), recent)

    def at(self, kept: Tensor) -> Self:
        return replace(
            self,
            point=self.point.at(kept),
            best=self.best.at(kept),
            towards=self.towards[kept],
            length=self.length[kept],
            share=self.share[kept],
            recent=self.recent[kept],
        )

    def advanced(self, rows: Rows, step: int) -> Self:
        mask = self.point.mask + self.share[:, None] * self.towards
        tried = rows.point(mask.clamp(0, 1))
        promised = self.share * dots(self.point.gradient, self.towards)  # < 0
        rounding = 4 * torch.finfo(mask.dtype).eps * self.point.objective.abs()
        bound = self.recent.amax(1) + ARMIJO * promised + rounding
        is_taken = tried.objective <= bound
        point = tried.or_else(is_taken, self.point)
        length = torch.where(is_taken, self._longer(tried), self.length)
        moved = torch.cat([self.recent[:, 1:], tried.objective[:, None]], 1)
        recent = torch.where(is_taken[:, None], moved, self.recent)
        share = torch.where(is_taken, torch.ones_like(length), self._shorter(tried, promised))
        towards = torch.where(is_taken[:, None], _towards(rows, point, length), self.towards)
        return replace(
            self,
            point=point,
            best=self.best.better(tried),
            towards=towards,
            length=length,
            share=share,
            recent=recent,
        )

    def _longer(self, tried: Point) -> Tensor:
        """Return the inverse curvature along the step; four times the last where it is none."""
        squared = self.share * dots(self.towards, self.towards)
        bend = dots(tried.gradient - self.point.gradient, self.towards)
        inverse = squared / torch.where(bend > 0, bend, torch.ones_like(bend))
        return torch.where(bend > 0, inverse, 4 * self.length).clamp(max=self.length * 1e4)

    def _shorter(self, tried: Point, promised: Tensor) -> Tensor:
        """Return the least of the parabola through what is known, within a tenth and a half."""
        excess = tried.objective - self.point.objective - promised
        least = -0.5 * promised * self.share / excess.clamp(min=torch.finfo(excess.dtype).tiny)
        return least.maximum(0.1 * self.share).minimum(0.5 * self.share)


def _towards(rows: Rows, point: Point, length: Tensor) -> Tensor:
    """Return the way to the nearest legal mask after a step down the gradient."""
    return rows.feasible.nearest(point.mask - length[:, None] * point.gradient) - point.mask
