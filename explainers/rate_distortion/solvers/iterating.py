"""From starts to solutions: every evaluation is of one candidate of each problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeAlias

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.blocks import Blocks
from explainers.rate_distortion.solvers.feasible import Feasible
from explainers.rate_distortion.solvers.problem import Problems, Solution, rate

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion

State: TypeAlias = dict[str, "Tensor"]
"""What a solver remembers of each problem that it works on: tensors whose first axis are those."""

LOOK = 4
"""Evaluations between two looks at which problems are done, each of which waits for the device."""

DONE = 0.3
"""Share of the problems that are done before the others are moved together."""

FLOOR = 1e-3
"""Objectives are told apart no finer than as if they were this much of their unit: at a distortion
of a thousandth of the squared target outputs are off by less than a twentieth."""


@dataclass(frozen=True, eq=False)
class Point:
    """Masks with what was found at them, one row each, all in float64.

    Where the objective, or any entry of its gradient, is not finite, objective and gap are infinite
    and the gradient is zero: a search backs off such masks, and they are never the best.
    """

    mask: Tensor
    """``(n, d)``, flattened."""
    distortion: Tensor
    """``(n,)``."""
    objective: Tensor
    """``(n,)``, in units of the distortion."""
    gradient: Tensor
    """Of the objective with respect to the mask, ``(n, d)``."""
    gap: Tensor
    """``(n,)``; see `Solution`."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The problems that are worked on."""

    distortion: Distortion
    problems: Problems
    feasible: Feasible
    n_most: int
    """Entries that the largest bound allows."""

    @classmethod
    def of(cls, distortion: Distortion, problems: Problems) -> Self:
        """Return all problems."""
        feasible = Feasible.of(problems)
        return cls(distortion, problems, feasible, feasible.n_most())

    def at(self, kept: Tensor) -> Self:
        """Return some of the rows."""
        return replace(self, feasible=self.feasible.at(kept), problems=self.problems.at(kept))

    @property
    def eps(self) -> float:
        """Rounding of what is evaluated: masks are, as the starts were given."""
        found = (self.problems.start.dtype, self.distortion.selected.dtype)
        return max(torch.finfo(dtype).eps for dtype in found)

    def point(self, masks: Tensor) -> Point:
        """Return what is found at flat masks, ``(n, d)``."""
        start = self.problems.start
        shaped = masks.to(start.dtype).view(start.shape)
        value, slope = self.distortion(shaped, self.problems.rows)
        value, slope = value.to(masks), slope.flatten(1).to(masks)
        objective, gradient = self.feasible.priced(masks, value, slope)
        is_known = objective.isfinite() & gradient.isfinite().all(1)
        objective = objective.where(is_known, torch.inf)
        gradient = gradient.where(is_known[:, None], 0)
        gap = self.feasible.gap(masks, gradient, self.n_most).where(is_known, torch.inf)
        return Point(masks, value, objective, gradient, gap)

    def are_done(self, point: Point, tolerance: float) -> Tensor:
        """Return which gaps are small, ``(n,)``; see `Solution`."""
        unit = self.problems.scale.to(point.gap)
        if self.feasible.prices is not None:
            prices = self.feasible.prices.to(unit)
            unit = torch.where(prices > 0, torch.minimum(prices, unit), unit)
        is_small = point.gap <= tolerance * (point.objective + FLOOR * unit)
        return is_small & point.gap.isfinite()


class Best:
    """The best point of every problem so far."""

    def __init__(self, problems: Problems) -> None:
        self._start = problems.start
        self.mask = problems.start.flatten(1).double().clone()
        unknown = self.mask.new_full((len(problems),), torch.inf)
        self.distortion, self.objective, self.gap = unknown, unknown.clone(), unknown.clone()
        self.n_iterations = torch.zeros_like(problems.rows)

    def offer(self, kept: Tensor, point: Point, counts: Tensor) -> None:
        """Keep the points that are better and `counts`; rows are those of the problems `kept`."""
        self.n_iterations[kept] += counts.long()
        is_better = counts & (point.objective < self.objective[kept])
        for name in ("mask", "distortion", "objective", "gap"):
            known = getattr(self, name)
            known[kept] = either(is_better, getattr(point, name), known[kept])

    def solution(self) -> Solution:
        """Return what was found, of the type of the starts."""
        like = self._start.dtype
        mask = self.mask.to(like).view(self._start.shape)
        return Solution(
            mask=mask,
            distortion=self.distortion.to(like),
            rate=rate(mask),
            objective=self.objective.to(like),
            n_iterations=self.n_iterations,
            gap=self.gap.to(like),
        )


def either(is_first: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the rows of the first where `is_first`, ``(n,)``, else those of the second."""
    return torch.where(is_first.view(-1, *[1] * (second.ndim - 1)), first, second)


@dataclass(frozen=True)
class Iterated(ABC):
    """A solver that goes from candidate to candidate, among the masks that are allowed.

    A problem is done by the rule of `Solution`, or when the solver says so; it is frozen then,
    whatever the others do, and leaves the batch when enough others are done. Masks and what is
    remembered of them are float64, and converted where they are evaluated: steps may be smaller
    than a float32 can tell.
    """

    n_steps: int = 300
    """Evaluations of the distortion with its gradient at most, of each problem."""
    tolerance: float = 1e-3
    """Of the gap, relative to the objective."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_steps", self.n_steps)
        numeric.check_finite("tolerance", self.tolerance)

    @torch.no_grad()
    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best of the masks that were passed; starts are moved to the nearest legal."""
        # so many rows at a time that none depends on how many there are
        rows = Rows.of(Blocks.of(distortion, problems), problems)
        best = Best(problems)
        kept = torch.arange(len(problems), device=problems.rows.device)
        candidate = rows.feasible.nearest(problems.start.flatten(1).double())
        state = self.begin(candidate)
        state["is_done"] = torch.zeros_like(kept, dtype=torch.bool)
        for step in range(self.n_evaluations):
            point = rows.point(candidate)
            best.offer(kept, point, ~state["is_done"])
            state["is_done"] |= rows.are_done(point, self.tolerance)
            if not step:
                # from a start without a slope nothing leads anywhere
                state["is_done"] |= point.objective.isinf()
            candidate = self.advance(state, rows, point, step)
            if step % LOOK == LOOK - 1:
                left = torch.nonzero(~state["is_done"])[:, 0]
                if not len(left):
                    break
                if len(left) < (1 - DONE) * len(kept):
                    rows, kept, candidate = rows.at(left), kept[left], candidate[left]
                    state = {name: value[left] for name, value in state.items()}
        return best.solution()

    @property
    def n_evaluations(self) -> int:
        """Most evaluations of a problem."""
        return self.n_steps

    def begin(self, mask: Tensor) -> State:
        """Return what is remembered before anything is known, given the masks ``(n, d)``."""
        return {}

    @abstractmethod
    def advance(self, state: State, rows: Rows, point: Point, step: int) -> Tensor:
        """Return the next candidates, ``(n, d)``, given what was found at the last ones.

        `state` is changed; its ``is_done`` is set where nothing is left to do.
        """
