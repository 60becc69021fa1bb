"""Masks of what suffices for the output when noise takes the place of the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from explainers import numeric
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.rate_distortion import asking, choice
from explainers.rate_distortion.asking import SCALES, Scale, Start
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.choice import Optimiser, SolverName, check_word
from explainers.rate_distortion.noise import MODES
from explainers.rate_distortion.sampled import Sampled
from explainers.rate_distortion.spreads import Mode, check_n_factors
from explainers.rate_distortion.verifying import verify
from explainers.rules.moments import carrying

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from explainers.network import Network
    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.noise import Noise
    from explainers.rate_distortion.solvers.problem import Problems, Solution, Solver
    from explainers.targets import Target
    from explainers.trace import Trace

RANK = 30
"""Rows of the factor that the scan `moments` is asked for where nobody lists it: the rank of the
authors' experiments."""

_DRAWN = ("distortion_monte_carlo", "distortion_monte_carlo_error")
_FIGURES = (*("rate", "distortion", *_DRAWN, "start_distortion", "objective", "gap", "iterations"),)
"""Arrays with a number for each mask, beside what it was asked for."""

_ASKED = (
    "rate_distortion got no noise; pass noise=explainers.scan(model, 'moments', loader, rank=30) "
    "(covariance='exact' for mode full), or {'uniform': [low, high]}, or "
    "{'mean': ..., 'variance': ...}"
)


@register("rate_distortion")
@dataclass(frozen=True)
class RateDistortion(Attribution):
    """Mask of the values that suffice for the output when noise replaces the others.

    Of a mask ``s`` in [0, 1], shaped as the sample ``x``, and noise ``n``, the rate is the mean of
    ``s`` and the distortion ``D(s) = 1/2 E[(f(x) - f(s x + (1 - s) n))^2]`` (Macdonald, Waeldchen,
    Hauch and Kutyniok 2019, arXiv:1905.11092). `lagrangian` minimises ``D + scale * multiplier *
    rate``; `rate` minimises D where the rate is bounded; `ordering` minimises the mean of D over
    nested masks of several rates, so that one relevance ordering is good at all of them (Macdonald,
    Besancon and Pokutta 2022, arXiv:2110.08105); `monte_carlo` is `lagrangian` on the distortion of
    draws, which any network and noise has.

    The map is the mask, from 0 to 1; of several multipliers, or rates, the mean of their masks,
    which orders values by how long they are kept, and each mask is in the array ``masks`` ``(batch,
    n, ...)``. Arrays ``(batch,)``, or ``(batch, n)`` for n masks, are ``multiplier`` or
    ``asked_rate``, ``rate``, ``distortion`` as it was optimised, ``distortion_monte_carlo`` by
    fresh draws of the noise with its standard error ``distortion_monte_carlo_error``,
    ``start_distortion``, ``objective``, ``gap`` (what the objective could still fall by were it
    linear, at least 0) and ``iterations``; ``selected``, ``(batch,)``, is ``f(x)``. Distortions are
    in squared units of the output. Where none is finite, mask and figures are NaN.

    Moments in mode `diag` lose nearly all of the output's variance (on digits, 95 % and
    more), because hidden values of one input vary together: compare ``distortion`` with
    ``distortion_monte_carlo``.
    """

    noise: Mapping[str, Any] | Tensor | None = None
    """What values are replaced by: the result of the scan `moments`, ``{uniform: [low, high]}``,
    ``{mean: ..., variance: ...}`` of numbers or one number a channel, or ``{file: path}`` of a
    safetensors file with ``mean`` and ``variance``, ``factor`` or ``covariance``, or with ``rows``.
    In the library also such tensors, or real rows ``(n, ...)`` to draw from."""
    mode: Mode = "half"
    """Moments that go through the network: `diag` variances alone, `half` rows of a factor of the
    covariance, `full` all of the covariance (small inputs)."""
    solver: SolverName = "lagrangian"
    """`lagrangian` and `monte_carlo` take multipliers, `rate` and `ordering` rates."""
    density: Literal["assumed", "sampled"] = "assumed"
    """Whether distortions are found from moments, or from `n_draws` draws that all masks of a
    sample share. `monte_carlo` always samples."""
    optimiser: Optimiser | None = None
    """Of `lagrangian` and `monte_carlo`: `projected_lbfgs`, `adam`, `projected_gradient` (with
    momentum and backtracking, as the authors), `spectral` (step lengths of Barzilai and Borwein),
    `frank_wolfe`, or `lbfgsb` (scipy's, one mask at a time); of `rate`: `spectral` or
    `frank_wolfe`. By default the first."""
    multipliers: float | tuple[float, ...] | None = None
    """Price of a rate of one, in units of `scale`; one mask for each. By default 0.1. In the
    library also a tensor ``(n,)``."""
    rates: float | tuple[float, ...] | None = None
    """Largest rates, above 0 and at most 1; one mask for each. By default 0.1 for `rate` and 0.05,
    0.1, 0.2, 0.3, 0.4, 0.5 for `ordering`."""
    rank: int | None = None
    """In mode `half`, the most rows of the factor, the strongest; by default all that the
    statistics have, and 30 where a run adds these by itself."""
    start: Start = 0.5
    """Masks to start from: a number, or ``{mean: 0.5, stdev: 0.1}`` for random ones, cut off at 0
    and 1. Where a start hides so much that the output does not answer to any value, there is no
    slope to follow, and the mask ends at zero: then start higher. `rate` and `ordering` begin with
    a rate of a half, or three times theirs, and then go on with the nearest mask of theirs."""
    n_steps: int | None = None
    """Iterations at most; by default the solver's own number."""
    step: float | None = None
    """Length of the first step, of `projected_gradient` (by default 1; the authors took 10 for
    photographs) and of `adam` (0.1); other optimisers find their own."""
    tolerance: float | None = None
    """Gap, relative to the objective, at which a mask is good enough; by default the solver's
    own."""
    n_draws: int = 128
    """Draws of the noise for a sample, where distortions are sampled. Masks are fitted to the
    draws: with few of them they are good for these alone."""
    n_verify: int = 128
    """Fresh draws with which each mask's distortion is measured in the end; 0 for none."""
    scale: Scale = "target"
    """Unit of the multipliers: `target` the squared output that is explained, `noise` the
    distortion where nothing is kept, which does not vanish where that output is near 0, `none`
    1."""

    stochastic = True
    needs: ClassVar[Mapping[str, str]] = {"noise": "moments"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rde": {
            "optimiser": "projected_gradient",
            "multipliers": (0.1, 0.5, 1.0),
            "start": 0.25,
            "n_steps": 1500,
        }
    }

    def __post_init__(self) -> None:
        check_word("mode", self.mode, MODES)
        check_word("density", self.density, ("assumed", "sampled"))
        check_word("scale", self.scale, SCALES)
        numeric.check_whole("n_draws", self.n_draws)
        numeric.check_whole("n_verify", self.n_verify, 0)
        if self.n_verify == 1:
            raise ValueError("got n_verify=1, expected at least 2 for an error, or 0 for none")
        if self.rank is not None:
            numeric.check_whole("rank", self.rank)
            if self.mode != "half":
                raise ValueError(
                    f"got rank={self.rank} in mode {self.mode!r}, which has no factor to cut "
                    "short; leave it out, or set mode: half"
                )
        asking.check_start(self.start)
        # both check what they are made of
        _ = self._solver, self.asked

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the scan `moments`, unless the noise is given."""
        noise = parameters.get("noise")
        return cls.needs if noise is None or isinstance(noise, str) else {}

    @classmethod
    def parameters_of_needs(cls, parameters: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """Return the rank, or the covariance, that the mode takes from `moments`."""
        mode = parameters.get("mode", "half")
        if mode == "full":
            return {"noise": {"covariance": "exact"}}
        return {"noise": {"rank": parameters.get("rank") or RANK}} if mode == "half" else {}

    @property
    def asked(self) -> tuple[float, ...]:
        """Multipliers, or rates, one a mask."""
        return asking.values(self.solver, self.multipliers, self.rates)

    @property
    def is_sampled(self) -> bool:
        """Whether distortions are found from draws."""
        return self.density == "sampled" or self.solver == "monte_carlo"

    @property
    def cost(self) -> Cost:
        """Passes at most; each map of moments, and each draw, is one. NaN where inputs decide."""
        return self._cost(None)

    def cost_on(self, network: Network) -> Cost:
        """Return the passes at most, on inputs of a known shape."""
        return self._cost(network)

    def check(self, network: Network) -> None:
        """Refuse networks without moments, and noise that does not fit mode or inputs."""
        if not self.is_sampled:
            carrying.check(network, "variance" if self.mode == "diag" else "factor")
        if self.noise is not None:
            self._resolved(network)
        elif self.layer is not None:
            raise ValueError(
                f"layer {self.layer!r} is explained, and statistics of the inputs are no noise for "
                "it; set noise to {uniform: [low, high]}, {mean: ..., variance: ...} or a file, of "
                "the layer's value"
            )
        elif self.mode == "full":
            check_n_factors(math.prod(network.input_shape), "full")

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return that passes are counted for masks that use up their steps."""
        n_steps, n_evaluations = choice.effort(self._solver)
        searched = f" of up to {n_evaluations / n_steps:.3g} tries each" * (n_evaluations > n_steps)
        return (
            f"passes are at most: of {n_steps} steps{searched}; masks that are good enough stop "
            "before",
        )

    def axes(self, dims: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Return what the dimensions of arrays of several masks are called."""
        if len(self.asked) == 1:
            return {}
        return {name: ("mask",) for name in (self._kind, *_FIGURES)} | {"masks": ("mask", *dims)}

    def stored_bytes(self, network: Network) -> int:
        """Return the bytes of several masks, and of their figures."""
        n_masks = len(self.asked)
        n_values = math.prod(network.input_shape) * network.dtype.itemsize
        return n_masks * (n_values + 8 * (1 + len(_FIGURES))) if n_masks > 1 else 0

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield one mask and step, with few moments or draws."""
        kind = "multipliers" if self._kind == "multiplier" else "rates"
        few = {kind: self.asked[:1], "n_steps": 1, "n_verify": 0, "n_draws": 1}
        small: list[dict[str, Any]] = [{"mode": "half", "rank": 1}, {"mode": "diag", "rank": None}]
        for moments in small[self.mode == "diag" :]:
            yield few | moments
            yield few | moments | {"optimiser": None}
        # steps that look more than once
        yield few | small[-1] | {"density": "sampled"}

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the mask, or the mean of several, and the arrays that the class describes."""
        noise = self._resolved(trace.network)
        distortion = self._distortion(trace, target, noise)
        problems = self._problems(trace, distortion)
        first = distortion.value(problems.start, problems.rows)
        solution = self._solver.solve(distortion, problems)
        asked = asking.of_each(problems)
        figures = {self._kind: asked, "start_distortion": first, **_figures(solution)}
        if self.n_verify:
            drawn = verify(trace, target, noise, solution.mask, problems.rows, self.n_verify)
            figures |= dict(zip(_DRAWN, drawn, strict=True))
        return self._explained(trace, distortion.selected, solution, figures)

    def _cost(self, network: Network | None) -> Cost:
        n_masks, solver = len(self.asked), self._solver
        n_maps = self._n_maps(network)
        n_steps, n_evaluations = (n_masks * n for n in choice.effort(solver))
        n_values = n_masks + (self.scale == "noise")
        return Cost(
            forward=1 + n_maps * (n_values + n_evaluations) + n_masks * self.n_verify,
            backward=n_maps * n_evaluations,
            steps=n_steps,
        )

    def _n_maps(self, network: Network | None) -> float:
        """Return the maps, or draws, that one look at a distortion takes."""
        if self.is_sampled:
            return self.n_draws
        if self.mode == "diag":
            return 2
        if self.noise is None and self.mode == "half":
            return 1 + (self.rank or RANK)
        if network is None:
            return math.nan
        if self.noise is None:
            return 1 + math.prod(network.input_shape)
        return 1 + len(self._resolved(network).spread)

    @property
    def _kind(self) -> str:
        """What masks are asked for: also the array that says it."""
        return asking.KIND[self.solver]

    @property
    def _solver(self) -> Solver:
        settings = {"n_steps": self.n_steps, "step": self.step, "tolerance": self.tolerance}
        return choice.solver(self.solver, self.optimiser, **settings)

    def _resolved(self, network: Network) -> Noise:
        if self.noise is None:
            raise ValueError(_ASKED)
        mode = asking.mode_of(self.noise, self.mode, is_sampled=self.is_sampled)
        return asking.resolved(self.noise, network, mode, self.rank if mode == "half" else None)

    def _distortion(self, trace: Trace, target: Target, noise: Noise) -> Distortion:
        if self.is_sampled:
            return Sampled(trace, target, noise, self.n_draws)
        return AssumedDensity(trace, target, noise)

    def _problems(self, trace: Trace, distortion: Distortion) -> Problems:
        scale = asking.scales(self.scale, trace, distortion)
        return asking.problems(trace, self.solver, self.asked, self.start, scale)

    def _explained(
        self, trace: Trace, selected: Tensor, solution: Solution, figures: Mapping[str, Tensor]
    ) -> Explained:
        """Return what was found for each sample; NaN where no distortion was finite."""
        n_masks = len(self.asked)
        masks = solution.mask.to(trace.inputs)
        found = solution.distortion.isfinite() & solution.objective.isfinite()
        found &= masks.flatten(1).isfinite().all(1)
        masks = masks.where(found.view(-1, *(1,) * (masks.ndim - 1)), torch.nan)
        masks = masks.view(trace.n_rows, n_masks, *masks.shape[1:])
        arrays = {"selected": selected}
        for name, values in figures.items():
            known = values.where(found, torch.nan) if values.is_floating_point() else values
            arrays[name] = known if n_masks == 1 else known.view(trace.n_rows, n_masks)
        if n_masks > 1:
            arrays["masks"] = masks
        return Explained(masks.mean(1), arrays)


def _figures(solution: Solution) -> dict[str, Tensor]:
    return {
        "rate": solution.rate,
        "distortion": solution.distortion,
        "objective": solution.objective,
        "gap": solution.gap,
        "iterations": solution.n_iterations,
    }
