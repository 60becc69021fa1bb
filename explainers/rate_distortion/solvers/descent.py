"""Descent of many masks in step: every evaluation is of one candidate of each problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.blocks import Blocks
from explainers.rate_distortion.solvers.problem import Problems, Solution, box_gap, price

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion

State: TypeAlias = dict[str, "Tensor"]
"""What a solver remembers of each problem that it works on: tensors whose first axis are those."""

LOOK = 4
"""Evaluations between two looks at which problems are done, each of which waits for the device."""

DONE = 0.3
"""Share of the problems that are done before the others are moved together."""


@dataclass(frozen=True, eq=False)
class Point:
    """Masks with the objective around them, one row each."""

    mask: Tensor
    """``(n, d)``, flattened."""
    distortion: Tensor
    """``(n,)``."""
    objective: Tensor
    """``(n,)``, in units of the distortion."""
    gradient: Tensor
    """Of the objective with respect to the mask, ``(n, d)``."""


@dataclass(frozen=True, eq=False)
class Lagrangian:
    """Distortion and the price of the rate, ``D(s) + scale * mu * mean(s)``.

    Within the box ``|s| = s``, so that the price is linear, with derivative ``scale * mu / d``, at
    zero too, where the original's is the subgradient 0 (Macdonald, Waeldchen, Hauch and Kutyniok
    2019, arXiv:1905.11092).
    """

    distortion: Distortion
    problems: Problems

    def __call__(self, mask: Tensor, kept: Tensor) -> Point:
        """Return the point of each mask, ``(len(kept), d)``, of the problems `kept`."""
        problems = self.problems
        shaped = mask.view(-1, *problems.start.shape[1:])
        value, slope = self.distortion(shaped, problems.rows[kept])
        cost = price(problems)[kept].to(mask)
        gradient = slope.to(mask).flatten(1) + (cost / problems.n_features).unsqueeze(1)
        value = value.to(mask)
        return Point(mask, value, value + cost * mask.mean(1), gradient)


class Best:
    """The best point of every problem so far."""

    def __init__(self, problems: Problems) -> None:
        self._shape = problems.start.shape
        self.mask = problems.start.flatten(1).clone()
        unknown = self.mask.new_full((len(problems),), torch.inf)
        self.distortion, self.objective, self.gap = unknown, unknown.clone(), unknown.clone()
        self.n_iterations = torch.zeros_like(problems.rows)

    def offer(self, kept: Tensor, point: Point, gap: Tensor, counts: Tensor) -> None:
        """Keep the points that are better and `counts`; rows are those of the problems `kept`."""
        is_better = counts & (point.objective < self.objective[kept])
        self.mask[kept] = torch.where(is_better.unsqueeze(1), point.mask, self.mask[kept])
        new = {"distortion": point.distortion, "objective": point.objective, "gap": gap}
        for name, value in new.items():
            known = getattr(self, name)
            known[kept] = torch.where(is_better, value, known[kept])

    def solution(self) -> Solution:
        """Return what was found."""
        return Solution(
            mask=self.mask.view(self._shape),
            distortion=self.distortion,
            rate=self.mask.mean(1),
            objective=self.objective,
            n_iterations=self.n_iterations,
            gap=self.gap,
        )


@dataclass(frozen=True)
class Descent(ABC):
    """A solver that goes from candidate to candidate, within the box.

    A problem is done when its gap is at most ``tolerance`` times its objective, or when the solver
    says so; it is frozen then, whatever the others do, and leaves the batch when enough others are
    done. The gap of a point s with gradient g is ``sum_i max(g_i, 0) s_i + max(-g_i, 0)(1 - s_i)``,
    the most that the objective, taken to be linear around s, falls within the box; of a convex
    objective it bounds what is left to gain.
    """

    n_steps: int = 300
    """Evaluations of the distortion with its gradient at most, of each problem."""
    tolerance: float = 1e-3
    """Of the gap, relative to the objective."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_steps", self.n_steps)
        if self.tolerance < 0:
            raise ValueError(f"tolerance is {self.tolerance!r}; expected a number of at least 0")

    @torch.no_grad()
    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best mask of each problem."""
        evaluate = Lagrangian(Blocks.of(distortion, problems), problems)
        best = Best(problems)
        kept = torch.arange(len(problems), device=problems.rows.device)
        candidate = problems.start.flatten(1)
        state = self.begin(candidate)
        state["is_done"] = torch.zeros_like(kept, dtype=torch.bool)
        for step in range(self.n_evaluations):
            point = evaluate(candidate, kept)
            gap = box_gap(point.mask, point.gradient)
            runs = ~state["is_done"]
            best.offer(kept, point, gap, runs)
            state["is_done"] |= gap <= self.tolerance * point.objective
            candidate, moved = self.advance(state, point, step)
            best.n_iterations[kept] += (runs & moved).long()
            if step % LOOK == LOOK - 1:
                left = torch.nonzero(~state["is_done"])[:, 0]
                if not len(left):
                    break
                if len(left) < (1 - DONE) * len(kept):
                    kept, candidate = kept[left], candidate[left]
                    state = {name: value[left] for name, value in state.items()}
        return best.solution()

    @property
    def n_evaluations(self) -> int:
        """Most evaluations of a batch."""
        return self.n_steps

    @abstractmethod
    def begin(self, mask: Tensor) -> State:
        """Return what is remembered before anything is known, given the masks ``(n, d)``."""

    @abstractmethod
    def advance(self, state: State, point: Point, step: int) -> tuple[Tensor, Tensor]:
        """Return the next candidates, ``(n, d)``, and which problems ended an iteration, ``(n,)``.

        `state` is changed; its ``is_done`` is set where nothing is left to do.
        """
