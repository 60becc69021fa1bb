"""From a step to a solution: the best mask of each row, rows that are done, rows that go on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol, Self

import torch

from explainers.rate_distortion.solvers.blocks import Blocks
from explainers.rate_distortion.solvers.feasible import Feasible
from explainers.rate_distortion.solvers.problem import Solution, rate

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems

LOOK = 5
"""Steps between two looks at the gaps, at which the host waits for the device."""

DONE = 0.3
"""Share of rows that are done at which they are dropped."""

FLOOR = 1e-3
"""Objectives are told apart no finer than as if they were this much of the scale: at a distortion
of a thousandth of the squared target outputs are off by less than a twentieth."""


@dataclass(frozen=True, eq=False)
class Point:
    """Masks with what was found at them; every part has a row for each problem."""

    mask: Tensor
    """``(n, d)``."""
    distortion: Tensor
    """``(n,)``."""
    objective: Tensor
    """``(n,)``."""
    gradient: Tensor
    """Of the objective, ``(n, d)``."""

    def at(self, kept: Tensor) -> Self:
        """Return some of the rows."""
        return replace(self, **{one.name: getattr(self, one.name)[kept] for one in fields(self)})

    def or_else(self, is_this: Tensor, other: Point) -> Point:
        """Return this where `is_this`, ``(n,)``, else the other."""
        across = is_this[:, None]
        return Point(
            torch.where(across, self.mask, other.mask),
            torch.where(is_this, self.distortion, other.distortion),
            torch.where(is_this, self.objective, other.objective),
            torch.where(across, self.gradient, other.gradient),
        )

    def better(self, other: Point) -> Point:
        """Return for each row the one with the smaller objective, this if they are equal."""
        return self.or_else(~(other.objective < self.objective), other)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that are iterated."""

    distortion: Distortion
    """What is asked."""
    feasible: Feasible
    """Which masks are allowed."""
    problems: Problems
    """What the rows are."""
    n_most: int
    """Entries that the largest bound allows."""

    def at(self, kept: Tensor) -> Rows:
        """Return some of the rows."""
        return replace(self, feasible=self.feasible.at(kept), problems=self.problems.at(kept))

    def point(self, masks: Tensor) -> Point:
        """Return what is found at flat masks, ``(n, d)``."""
        shaped = masks.view(self.problems.start.shape)
        distortion, gradient = self.distortion(shaped, self.problems.rows)
        objective, gradient = self.feasible.priced(masks, distortion, gradient.flatten(1))
        return Point(masks, distortion, objective, gradient.to(masks))

    def gap(self, point: Point) -> Tensor:
        """Return the gap of each row, ``(n,)``."""
        return self.feasible.gap(point.mask, point.gradient, self.n_most)

    def vertex(self, point: Point) -> Tensor:
        """Return the mask that the gradient points to, ``(n, d)``."""
        return self.feasible.vertex(point.gradient, self.n_most)


def begun(distortion: Distortion, problems: Problems) -> tuple[Rows, Point]:
    """Return the rows of problems, and what is found at the legal masks nearest to their starts."""
    feasible = Feasible.of(problems)
    # so many rows at a time that none depends on how many there are
    rows = Rows(Blocks.of(distortion, problems), feasible, problems, feasible.n_most())
    return rows, rows.point(feasible.nearest(problems.start.flatten(1)))


class State(Protocol):
    """Where an iteration is; every tensor in it has a row for each problem."""

    @property
    def best(self) -> Point:
        """The best that was found."""

    def at(self, kept: Tensor) -> Self:
        """Return some of the rows."""

    def advanced(self, rows: Rows, step: int) -> Self:
        """Return the state after one evaluation of each row; steps count from one."""


def iterated(rows: Rows, state: State, n_steps: int, tolerance: float) -> Solution:
    """Return the best masks once gaps are small, or steps are used up.

    A row is done when its gap is at most ``tolerance * (objective + FLOOR * scale)``; it then
    stays as it is, whatever other rows do.

    Parameters
    ----------
    rows
        All rows of the problems.
    state
        At the start, which was one evaluation.
    n_steps
        Evaluations of a row at most, the start's included.
    tolerance
        For gaps.
    """
    problems = rows.problems
    kept = _Kept.like(state.best)
    where = torch.arange(len(problems), device=problems.start.device)
    goes_on = torch.ones_like(where, dtype=torch.bool)
    for step in range(1, n_steps + 1):
        if step % LOOK == 0 or step == n_steps:
            best, gap = state.best, rows.gap(state.best)
            bound = tolerance * (best.objective + FLOOR * rows.problems.scale.to(gap))
            is_over = goes_on & ((gap <= bound) | (step == n_steps))
            kept.put(where[is_over], best.at(is_over), gap[is_over], step)
            goes_on = goes_on & ~is_over
            n_left = int(goes_on.sum())
            if n_left == 0:
                break
            if n_left <= (1 - DONE) * len(where):
                rows, state, where = rows.at(goes_on), state.at(goes_on), where[goes_on]
                goes_on = torch.ones_like(where, dtype=torch.bool)
        state = state.advanced(rows, step)
    return kept.solution(problems)


@dataclass(eq=False)
class _Kept:
    """What is found, row by row."""

    point: Point
    gap: Tensor
    n_iterations: Tensor

    @classmethod
    def like(cls, point: Point) -> Self:
        gap = torch.zeros_like(point.objective)
        copy = Point(*(getattr(point, one.name).clone() for one in fields(point)))
        return cls(copy, gap, torch.zeros_like(gap, dtype=torch.int64))

    def put(self, where: Tensor, point: Point, gap: Tensor, step: int) -> None:
        for one in fields(point):
            getattr(self.point, one.name)[where] = getattr(point, one.name)
        self.gap[where] = gap
        self.n_iterations[where] = step

    def solution(self, problems: Problems) -> Solution:
        mask = self.point.mask.view(problems.start.shape)
        distortion, objective = self.point.distortion, self.point.objective
        return Solution(mask, distortion, rate(mask), objective, self.n_iterations, self.gap)
