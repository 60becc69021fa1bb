"""Multipliers of one sample, the largest first, each from the mask of the one before."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from explainers.rate_distortion.solvers.problem import Problems, Solution, price

if TYPE_CHECKING:
    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Solver


@dataclass(frozen=True)
class AlongGrid:
    """A solver of which a sample's problems are asked by falling multiplier, in stages.

    Each stage has at most one problem of every sample and starts from the masks of the stage
    before; the first, of the largest multipliers, starts from the given start. Large multipliers
    take few steps, and neighbours differ little, so that evaluations are saved; but where there are
    many minima, the stages stay in the one that the first of them found.
    """

    solver: Solver
    """Of each stage."""

    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best mask of each problem, in the order in which they are given."""
        stage = stages(problems)
        n_stages = int(stage.max()) + 1 if len(problems) else 0
        if n_stages <= 1:
            return self.solver.solve(distortion, problems)
        last = torch.zeros_like(problems.rows)  # problem of each row's sample in the last stage
        numbers = torch.unique(problems.rows, return_inverse=True)[1]
        masks = problems.start.clone()
        parts: list[tuple[torch.Tensor, Solution]] = []
        for number in range(n_stages):
            at = torch.nonzero(stage == number)[:, 0]
            asked = problems.at(at)
            if number:
                asked = replace(asked, start=masks[last[numbers[at]]])
            found = self.solver.solve(distortion, asked)
            masks[at] = found.mask
            last[numbers[at]] = at
            parts.append((at, found))
        return _joined(parts)


def stages(problems: Problems) -> torch.Tensor:
    """Return the place of each problem among those of its sample by falling price, ``(n,)``."""
    by_price = torch.argsort(price(problems), descending=True, stable=True)
    order = by_price[torch.argsort(problems.rows[by_price], stable=True)]
    rows = problems.rows[order]
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    return torch.empty_like(place).index_copy_(0, order, place)


def _joined(parts: list[tuple[torch.Tensor, Solution]]) -> Solution:
    """Return the solutions of all stages in the order of their problems."""
    order = torch.argsort(torch.cat([at for at, _ in parts]))
    joined = {
        field.name: torch.cat([getattr(part, field.name) for _, part in parts])[order]
        for field in fields(Solution)
    }
    return Solution(**joined)
