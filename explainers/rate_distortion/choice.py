"""The solvers and optimisers by the names that they have in a run file."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from explainers import numeric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.rate_distortion.solvers.problem import Solver

SolverName = Literal["lagrangian", "rate", "ordering", "monte_carlo"]
Optimiser = Literal[
    "projected_lbfgs", "adam", "projected_gradient", "spectral", "frank_wolfe", "lbfgsb"
]

_SOLVERS = "explainers.rate_distortion.solvers"

_PRICED: Mapping[Any, str] = MappingProxyType(
    {
        # on digits a lower objective than 300 steps of Adam, for a quarter of the time
        "projected_lbfgs": "projected_lbfgs.ProjectedLBFGS",
        "adam": "adam.Adam",
        "projected_gradient": "projected_gradient.ProjectedGradient",
        "spectral": "spectral.SpectralProjectedGradient",
        "frank_wolfe": "frank_wolfe.FrankWolfe",
        "lbfgsb": "lbfgsb.LBFGSB",
    }
)
_CLASSES: Mapping[str, Mapping[Any, str]] = MappingProxyType(
    {
        "lagrangian": _PRICED,
        "monte_carlo": _PRICED,
        "rate": MappingProxyType(
            {
                # on digits less distortion, for a fifth to a third of the evaluations
                "spectral": "spectral.SpectralProjectedGradient",
                "frank_wolfe": "frank_wolfe.FrankWolfe",
            }
        ),
        "ordering": MappingProxyType({"": "ordering.Ordering"}),
    }
)
"""Solver to optimiser to the module and class in `solvers`; the first is the default."""

_STEPPING = ("adam", "projected_gradient")
"""Optimisers that are told the length of their first step."""


def solver(name: SolverName, optimiser: Optimiser | None, **settings: Any) -> Solver:
    """Return a solver with its settings; those that are None are left at their defaults.

    Raises
    ------
    TypeError
        If a setting is of the wrong type, or the solver has none of the name.
    ValueError
        If there is no such solver, it has no such optimiser, or a setting is out of range.
    """
    check_word("solver", name, get_args(SolverName))
    classes = _CLASSES[name]
    if optimiser is not None and optimiser not in classes:
        known = f"one of {', '.join(classes)}" if len(classes) > 1 else "none: it has its own"
        raise ValueError(f"got optimiser={optimiser!r} for the solver {name!r}, expected {known}")
    given = {setting: value for setting, value in settings.items() if value is not None}
    if "n_steps" in given:
        numeric.check_whole("n_steps", given["n_steps"])
    if "tolerance" in given:
        numeric.check_finite("tolerance", given["tolerance"])
    chosen: str = optimiser or next(iter(classes))
    if "step" in given:
        _check_step(given["step"], chosen or name)
    if name == "ordering" and "n_steps" in given:
        # as many as its defaults have, for each rate alone and for all together
        given["n_together"] = max(1, given["n_steps"] // 2)
    # what one solver needs, such as scipy, is not read for another
    module, _, kind = classes[chosen].partition(".")
    found: Solver = getattr(importlib.import_module(f"{_SOLVERS}.{module}"), kind)(**given)
    return found


def _check_step(step: Any, optimiser: str) -> None:
    """Refuse a step that has no length, or an optimiser that finds its own."""
    if optimiser not in _STEPPING:
        raise ValueError(
            f"got step={step!r} for {optimiser!r}, which finds the lengths of its "
            f"steps; leave step out, or set optimiser: {' or '.join(_STEPPING)}"
        )
    numeric.check_finite("step", step)
    if not step:
        raise ValueError(f"got step={step}, expected a number above 0")


def effort(found: Solver) -> tuple[int, int]:
    """Return the steps, and the looks at a distortion and its gradient, of a problem at most.

    A solver whose steps look more than once says so in ``n_evaluations``.
    """
    n_steps = int(found.n_steps)  # type: ignore[attr-defined]  # a setting of all solvers
    return n_steps, int(getattr(found, "n_evaluations", n_steps))


def check_word(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a word that is not among those that are known.

    Raises
    ------
    ValueError
        If it is not.
    """
    if value not in known:
        raise ValueError(f"got {name}={value!r}, expected one of {', '.join(known)}")
