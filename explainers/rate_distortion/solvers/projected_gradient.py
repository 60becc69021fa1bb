"""Projected gradient with momentum and backtracking, as the authors of the method did it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.iterating import Iterated, Point, Rows, State, either
from explainers.rate_distortion.solvers.problem import dots

if TYPE_CHECKING:
    from torch import Tensor

STILL = 1e-18
"""Squared relative change of objective and mask below which the authors stop."""
MANY = 5
"""Tries from which on the next iteration starts with a shorter step."""


@dataclass(frozen=True)
class ProjectedGradient(Iterated):
    """Steps along a running mean of gradients, each with a search for its length.

    ``m <- M m + (1 - M) g`` and ``s' = clip(s - a m, 0, 1)``, accepted where
    ``f(s) - f(s') >= c / a * |s' - s|^2``; else the step a is multiplied by `shrink`, and the last
    of `n_tries` candidates is taken as it is. The step that is tried first is divided by `shrink`
    for the next iteration where it was accepted, and multiplied by it after five tries or more
    (Macdonald, Waeldchen, Hauch and Kutyniok 2019, arXiv:1905.11092). Every problem searches for
    itself. It stops early where a whole search changes neither s nor f, as the authors' does, but
    not while m is so long that no step along it could have been accepted.
    """

    n_steps: int = 1500
    """Iterations at most, of each problem; each takes up to `n_tries` evaluations."""
    step: float = 1.0
    """Length that the first iteration tries first; the authors take 10 for photographs."""
    momentum: float = 0.85
    """M, in [0, 1)."""
    decrease: float = 0.65
    """c, how much of a decrease is enough."""
    shrink: float = 0.7
    """What a rejected step is multiplied by, in (0, 1)."""
    n_tries: int = 30
    """Candidates of an iteration at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numeric.check_whole("n_tries", self.n_tries)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum!r}; expected a number in [0, 1)")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink is {self.shrink!r}; expected a number in (0, 1)")

    @property
    def n_evaluations(self) -> int:
        """As many as every search may take."""
        return 1 + self.n_steps * self.n_tries

    def begin(self, mask: Tensor) -> State:
        """Return the first step's length, and no momentum."""
        numbers = mask.new_full((len(mask),), torch.inf)
        counts = torch.zeros_like(numbers, dtype=torch.int64)
        return {
            "mask": mask,
            "objective": numbers,
            "gradient": torch.zeros_like(mask),
            "mean": torch.zeros_like(mask),
            "first": torch.full_like(numbers, self.step),
            "length": torch.full_like(numbers, self.step),
            "n_tries": counts,
            "n_taken": counts.clone(),
        }

    def advance(self, state: State, rows: Rows, point: Point, step: int) -> Tensor:
        """Return the candidates of those who search on, and of those who start an iteration."""
        squares = (point.mask - state["mask"]).square().sum(1)
        fall = state["objective"] - point.objective
        is_enough = fall >= self.decrease / state["length"] * squares
        state["n_tries"] += int(step > 0)
        is_last = ~is_enough & (state["n_tries"] >= self.n_tries)
        ends = is_enough | is_last
        if step:
            is_still = fall**2 < STILL * state["objective"] ** 2
            rests = squares < STILL * state["mask"].square().sum(1)
            # of a mean that older gradients make too long no step is enough, however short: that
            # passes with them, and is no sign of an end
            promised = dots(state["gradient"], state["mask"] - point.mask)
            may_be_enough = promised >= self.decrease / state["length"] * squares
            state["is_done"] |= is_last & is_still & rests & may_be_enough
            state["n_taken"] += ends.long()
            state["is_done"] |= state["n_taken"] >= self.n_steps
            self._set_length(state, is_enough, ends)
        self._take(state, point, ends)
        candidate = state["mask"] - state["length"].unsqueeze(1) * state["mean"]
        return rows.feasible.nearest(candidate)

    def _set_length(self, state: State, is_enough: Tensor, ends: Tensor) -> None:
        """Shorten the steps of those who search on, and set the first ones of those who do not."""
        at_once = is_enough & (state["n_tries"] == 1)
        factor = torch.where(at_once, 1 / self.shrink, 1.0)
        factor = torch.where(state["n_tries"] >= MANY, self.shrink, factor)
        state["first"] = torch.where(ends, state["first"] * factor, state["first"])
        state["length"] = torch.where(ends, state["first"], state["length"] * self.shrink)
        state["n_tries"] = torch.where(ends, 0, state["n_tries"])

    def _take(self, state: State, point: Point, ends: Tensor) -> None:
        """Make the points that ended an iteration those that the next one starts from."""
        mean = self.momentum * state["mean"] + (1 - self.momentum) * point.gradient
        state["mean"] = either(ends, mean, state["mean"])
        for name in ("mask", "gradient", "objective"):
            state[name] = either(ends, getattr(point, name), state[name])
