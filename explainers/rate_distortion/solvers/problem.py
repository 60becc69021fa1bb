"""What solvers are given and what they return: many small problems as rows of one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol, Self

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion


@dataclass(frozen=True, eq=False)
class Problems:
    """One mask each: all multipliers, or rates, of all samples are rows of one batch.

    Raises
    ------
    ValueError
        If a part does not have one entry for each row, or a start is outside ``[0, 1]``.
    """

    rows: Tensor
    """Sample of each problem, ``(n,)``, int64: which row of the trace."""
    start: Tensor
    """Masks to start from, ``(n, ...)``, in [0, 1]."""
    multiplier: Tensor | None
    """Price of the rate, ``(n,)``, >= 0; None where the rate is bounded instead."""
    rate: Tensor | None
    """Largest rate, ``(n,)``, in [0, 1]; None where it has a price instead."""
    scale: Tensor
    """Of the price, in units of the distortion, ``(n,)``: the squared target by default."""

    def __post_init__(self) -> None:
        n_problems = len(self.start)
        for name in ("rows", "multiplier", "rate", "scale"):
            part = getattr(self, name)
            if part is not None and part.shape != (n_problems,):
                raise ValueError(
                    f"{name} has shape {tuple(part.shape)} for {n_problems} masks to start from; "
                    f"give one number for each, ({n_problems},)"
                )
        if bool(((self.start < 0) | (self.start > 1)).any()):
            raise ValueError(
                f"masks to start from are in [{float(self.start.min())}, "
                f"{float(self.start.max())}]; expected [0, 1]: clamp them"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """Entries of a mask."""
        return math.prod(self.start.shape[1:])

    def per_mask(self, numbers: Tensor) -> Tensor:
        """Return one number for each row, ``(n,)``, shaped to go with masks."""
        return numbers.view(-1, *[1] * (self.start.ndim - 1))

    def at(self, kept: Tensor) -> Self:
        """Return some of the problems, by index or by a mask of booleans, ``(n,)``."""
        return replace(
            self,
            rows=self.rows[kept],
            start=self.start[kept],
            multiplier=None if self.multiplier is None else self.multiplier[kept],
            rate=None if self.rate is None else self.rate[kept],
            scale=self.scale[kept],
        )


@dataclass(frozen=True, eq=False)
class Solution:
    """The best mask that was found for each problem.

    All solvers count evaluations of the distortion with its gradient, whether or not a step is
    taken, and all stop at ``gap <= tolerance * (objective + FLOOR * unit)``. The unit is the scale,
    or what a mask of ones costs where that is less; FLOOR is that of `iterating`. At a start
    without a finite objective and gradient they look once: it is the mask then, and distortion,
    objective and gap are infinite.
    """

    mask: Tensor
    """``(n, ...)``, in [0, 1]."""
    distortion: Tensor
    """At the mask, ``(n,)``."""
    rate: Tensor
    """Mean of the mask, ``(n,)``, in [0, 1]."""
    objective: Tensor
    """What was minimised, ``(n,)``: the distortion, and the price of the rate where it has one."""
    n_iterations: Tensor
    """Evaluations that each problem took until it was done, that of the start among them, ``(n,)``,
    int64."""
    gap: Tensor
    """How far the mask may be from optimal, ``(n,)``, >= 0, in units of the objective: the most
    that the objective, taken to be linear around the mask, falls within the feasible set, ``max_v
    <g, s - v>``. Of a convex objective it bounds what is left to gain (Jaggi 2013)."""


class Solver(Protocol):
    """What finds masks; a frozen dataclass of its settings.

    What it finds for a problem does not depend on which others it is solved with, but for the
    rounding of sums that a batch of another size changes.
    """

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best mask of each problem."""
        ...


def price(problems: Problems) -> Tensor:
    """Return what a rate of one costs, ``(n,)``: ``scale * multiplier``.

    Raises
    ------
    ValueError
        If the problems have no multiplier.
    """
    if problems.multiplier is None:
        raise ValueError(
            "problems have no multiplier, but the solver trades distortion for rate at a price; "
            "give Problems(multiplier=...), or use the solver 'rate'"
        )
    return problems.scale * problems.multiplier


def rate(masks: Tensor) -> Tensor:
    """Return the mean of each mask, ``(n,)``."""
    return masks.flatten(1).mean(1)


def dots(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of each row, ``(n,)``."""
    return (left.flatten(1) * right.flatten(1)).sum(1)


def better(first: Solution, second: Solution) -> Solution:
    """Return of each problem the mask with the smaller objective, for the iterations of both."""
    is_second = second.objective < first.objective
    chosen = {
        one.name: torch.where(
            is_second.view(-1, *[1] * (getattr(first, one.name).ndim - 1)),
            getattr(second, one.name),
            getattr(first, one.name),
        )
        for one in fields(Solution)
    }
    return replace(Solution(**chosen), n_iterations=first.n_iterations + second.n_iterations)
