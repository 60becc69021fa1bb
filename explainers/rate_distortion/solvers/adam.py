"""Adam, projected onto the box."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from explainers.rate_distortion.solvers.iterating import Iterated, Point, Rows, State

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems, Solution

DECAYS = (0.9, 0.999)
"""Of the means of the gradient and of its square; the authors' defaults."""


@dataclass(frozen=True)
class Adam(Iterated):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with every step clipped to the box.

    The step falls to zero along half a cosine, so that all `n_steps` are needed.
    """

    step: float = 0.1
    """Of the first iteration, in units of the mask."""

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best mask of each problem; rates have prices here, and no bounds.

        After a bound's projection steps that each entry scales for itself may end anywhere.
        """
        return super().solve(distortion, replace(problems, rate=None))

    def begin(self, mask: Tensor) -> State:
        """Return the means, which are zero."""
        return {"mean": torch.zeros_like(mask), "square": torch.zeros_like(mask)}

    def advance(self, state: State, rows: Rows, point: Point, step: int) -> Tensor:
        """Return the projected steps of all problems."""
        first, second = DECAYS
        state["mean"] = first * state["mean"] + (1 - first) * point.gradient
        state["square"] = second * state["square"] + (1 - second) * point.gradient**2
        mean = state["mean"] / (1 - first ** (step + 1))
        deviation = (state["square"] / (1 - second ** (step + 1))).sqrt()
        length = self.step * 0.5 * (1 + math.cos(math.pi * step / self.n_steps))
        towards = mean / deviation.clamp(min=torch.finfo(mean.dtype).tiny)
        return (point.mask - length * towards).clamp(0, 1)
