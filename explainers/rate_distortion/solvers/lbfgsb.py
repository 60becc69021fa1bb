"""SciPy's L-BFGS-B, one problem after the other: what other solvers are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from explainers import numeric
from explainers.rate_distortion.solvers.descent import Best, Lagrangian, Point
from explainers.rate_distortion.solvers.problem import box_gap

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.solvers.problem import Problems, Solution


@dataclass(frozen=True)
class LBFGSB:
    """Bounded quasi-Newton steps (Byrd, Lu, Nocedal and Zhu 1995, doi:10.1137/0916069).

    SciPy's implementation with its defaults, as the authors of the method use it: a loop over
    problems on the host, each evaluation a batch of one. Masks are float64 there, the distortion
    is evaluated in the precision of the start. Needs ``scipy``, of the extra ``rde``.
    """

    n_steps: int = 15000
    """Iterations at most, of each problem."""
    tolerance: float = 0.0
    """Of the gap, relative to the objective; with 0 SciPy's own rules alone stop."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_steps", self.n_steps)
        if self.tolerance < 0:
            raise ValueError(f"tolerance is {self.tolerance!r}; expected a number of at least 0")

    @torch.no_grad()
    def solve(self, distortion: Distortion, problems: Problems) -> Solution:
        """Return the best mask of each problem.

        Raises
        ------
        ImportError
            If SciPy is not installed.
        """
        try:
            from scipy.optimize import minimize
        except ImportError as error:
            raise ImportError(
                "the solver 'lbfgsb' needs scipy: pip install 'xpipe-xai[rde]', or take another"
            ) from error
        evaluate, best = Lagrangian(distortion, problems), Best(problems)
        for number in range(len(problems)):
            search = _Search(evaluate, best, torch.tensor([number], device=problems.rows.device))
            found = minimize(
                search,
                problems.start[number].flatten().double().cpu().numpy(),
                jac=True,
                method="L-BFGS-B",
                bounds=[(0, 1)] * problems.n_features,
                options={"maxiter": self.n_steps},
                callback=self._stopping(search) if self.tolerance else None,
            )
            best.n_iterations[number] = found.nit
        return best.solution()

    def _stopping(self, search: _Search) -> Any:
        """Return what SciPy calls after every iteration."""

        def stop(_: Any) -> None:
            if search.relative_gap <= self.tolerance:
                raise StopIteration

        return stop


class _Search:
    """The objective of one problem, as SciPy calls it."""

    def __init__(self, evaluate: Lagrangian, best: Best, kept: Tensor) -> None:
        self._evaluate = evaluate
        self._best = best
        self._kept = kept
        self.relative_gap = float("inf")

    def __call__(self, mask: Any) -> tuple[float, Any]:
        """Return objective and gradient."""
        start = self._evaluate.problems.start
        row = torch.from_numpy(mask).to(start).unsqueeze(0)
        point = self._evaluate(row, self._kept)
        self._note(point)
        return float(point.objective), point.gradient[0].double().cpu().numpy()

    def _note(self, point: Point) -> None:
        gap = box_gap(point.mask, point.gradient)
        self.relative_gap = float(gap / point.objective.clamp(min=1e-300))
        self._best.offer(self._kept, point, gap, torch.ones_like(self._kept, dtype=torch.bool))
