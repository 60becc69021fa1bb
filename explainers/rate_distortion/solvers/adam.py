"""Adam, projected onto the box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.rate_distortion.solvers.descent import Descent, Point, State

if TYPE_CHECKING:
    from torch import Tensor

DECAYS = (0.9, 0.999)
"""Of the means of the gradient and of its square; the authors' defaults."""


@dataclass(frozen=True)
class Adam(Descent):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with every step clipped to the box.

    The step falls to zero along half a cosine, so that all `n_steps` are needed. It looks at no
    value of the objective, and so bears distortions whose draws change from step to step.
    """

    step: float = 0.1
    """Of the first iteration, in units of the mask."""

    def begin(self, mask: Tensor) -> State:
        """Return the means, which are zero."""
        return {"mean": torch.zeros_like(mask), "square": torch.zeros_like(mask)}

    def advance(self, state: State, point: Point, step: int) -> tuple[Tensor, Tensor]:
        """Return the clipped steps of all problems."""
        first, second = DECAYS
        state["mean"] = first * state["mean"] + (1 - first) * point.gradient
        state["square"] = second * state["square"] + (1 - second) * point.gradient**2
        mean = state["mean"] / (1 - first ** (step + 1))
        deviation = (state["square"] / (1 - second ** (step + 1))).sqrt()
        length = self.step * 0.5 * (1 + math.cos(math.pi * step / self.n_steps))
        towards = mean / deviation.clamp(min=torch.finfo(mean.dtype).tiny)
        every = torch.ones_like(state["is_done"])
        return (point.mask - length * towards).clamp(0, 1), every
