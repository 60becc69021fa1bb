"""SciPy's L-BFGS-B, one problem after the other: what other solvers are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.iterating import Best, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems, Solution


STEEP = 1e-5
"""Largest derivative with respect to the mean of a mask, in units of the scale, to stop at."""


@dataclass(frozen=True)
class LBFGSB:
    """Bounded quasi-Newton steps (Byrd, Lu, Nocedal and Zhu 1995, doi:10.1137/0916069).

    SciPy's implementation, as the authors of the method use it: a loop over problems on the host,
    each evaluation a batch of one. SciPy's bound of the gradient is absolute, and it would stop at
    once where outputs are small or entries many: it sees the objective divided by the scale, and
    the bound is divided by the entries. Its other settings are SciPy's defaults.
    Masks are float64 there, the distortion is evaluated in the precision of the start.
    """

    n_steps: int = 15000
    """Evaluations of the distortion with its gradient after which SciPy begins no iteration, of
    each problem."""
    tolerance: float = 0.0
    """Of the gap, relative to the objective; with 0 SciPy's own rules alone stop."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_steps", self.n_steps)
        numeric.check_finite("tolerance", self.tolerance)

    @torch.no_grad()
    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best mask of each problem."""
        from scipy.optimize import minimize  # only where it is needed

        problems = replace(problems, rate=None)  # rates have prices here, and no bounds
        rows, best = Rows.of(distortion, problems), Best(problems)
        for number in range(len(problems)):
            kept = torch.tensor([number], device=problems.rows.device)
            search = _Search(rows.at(kept), best, kept, self.tolerance)
            minimize(
                search,
                problems.start[number].flatten().double().cpu().numpy(),
                jac=True,
                method="L-BFGS-B",
                bounds=[(0, 1)] * problems.n_features,
                options={
                    "maxiter": self.n_steps,
                    "maxfun": self.n_steps,
                    "gtol": STEEP / problems.n_features,
                },
                callback=search.stop if self.tolerance else None,
            )
        return best.solution()


class _Search:
    """The objective of one problem, as SciPy calls it."""

    def __init__(self, rows: Rows, best: Best, kept: Tensor, tolerance: float) -> None:
        self._rows, self._best, self._kept = rows, best, kept
        self._tolerance = tolerance
        self._is_done = False
        scale = rows.problems.scale.double()
        self._scale = torch.where(scale > 0, scale, 1)

    def __call__(self, mask: Any) -> tuple[float, Any]:
        """Return objective and gradient, in units of the scale."""
        row = torch.from_numpy(mask).to(self._rows.problems.start.device).unsqueeze(0)
        point = self._rows.point(row)
        self._best.offer(self._kept, point, torch.ones_like(self._kept, dtype=torch.bool))
        self._is_done = bool(self._rows.are_done(point, self._tolerance))
        gradient = (point.gradient / self._scale)[0].cpu().numpy()
        return float(point.objective / self._scale), gradient

    def stop(self, _: Any) -> None:
        """Be called after every iteration."""
        if self._is_done:
            raise StopIteration
