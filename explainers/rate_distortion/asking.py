"""What is asked of solvers: masks to start from, prices and their unit, one problem a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from explainers import numeric
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.solvers.problem import Problems

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.rate_distortion.choice import SolverName
    from explainers.rate_distortion.distortion import Distortion
    from explainers.rate_distortion.noise import Noise
    from explainers.rate_distortion.spreads import Mode
    from explainers.trace import Trace

Scale = Literal["target", "noise", "none"]
Start: TypeAlias = float | Mapping[str, float]

SCALES: tuple[Scale, ...] = ("target", "noise", "none")

KIND: Mapping[str, Literal["multiplier", "asked_rate"]] = MappingProxyType(
    {
        "lagrangian": "multiplier",
        "monte_carlo": "multiplier",
        "rate": "asked_rate",
        "ordering": "asked_rate",
    }
)
"""Solver to what it is asked for; also the name of the array that says so."""

DEFAULTS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "lagrangian": (0.1,),
        "monte_carlo": (0.1,),
        "rate": (0.1,),
        "ordering": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    }
)
"""Solver to the multipliers, or rates, that it is asked for where none are said."""

_KNOWN: WeakKeyDictionary[Network, list[tuple[Any, list[Tensor], Noise]]] = WeakKeyDictionary()
"""Noise that was resolved for a network, what it was made of, and the tensors of that: a covariance
of a thousand values takes a second."""
_MOST_KNOWN = 4


def values(solver: str, multipliers: Any, rates: Any) -> tuple[float, ...]:
    """Return the multipliers, or rates, that a solver is asked for, one a mask.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If there are none, they are out of range, or the solver does not take them.
    """
    is_priced = KIND[solver] == "multiplier"
    name, given = ("multipliers", multipliers) if is_priced else ("rates", rates)
    other, unused = ("rates", rates) if is_priced else ("multipliers", multipliers)
    if unused is not None:
        raise ValueError(
            f"got {other}={unused!r}, which the solver {solver!r} does not take; give {name}, or "
            f"solver: {'rate' if is_priced else 'lagrangian'}"
        )
    if given is None:
        return DEFAULTS[solver]
    if isinstance(given, Tensor | np.ndarray):
        given = given.tolist()
    each = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not each:
        raise ValueError(f"got no {name}, expected at least one number")
    for value in each:
        numeric.check_finite(name, value)
        if not is_priced and not 0 < value <= 1:
            raise ValueError(f"got {name}={given!r}, expected numbers above 0 and at most 1")
    return tuple(float(value) for value in each)


def check_start(start: Any) -> None:
    """Refuse a start that is neither a number in [0, 1] nor a mean and a standard deviation.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is out of range, or has other keys.
    """
    if isinstance(start, Mapping):
        if set(start) != {"mean", "stdev"}:
            raise ValueError(f"got start={dict(start)!r}, expected a number or {{mean, stdev}}")
        numeric.check_finite("start", start["stdev"])
        start = start["mean"]
    numeric.check_finite("start", start)
    if start > 1:
        raise ValueError(f"got start={start}, expected a mask from 0 to 1")


def mode_of(spec: Any, mode: Mode, *, is_sampled: bool) -> Mode:
    """Return the mode in which noise is resolved.

    Draws of values that do not covary need no factor, which would have a row for each.
    """
    if not is_sampled or not isinstance(spec, Mapping):
        return mode
    is_independent = not {"factor", "covariance", "file", "count"} & spec.keys()
    return "diag" if is_independent else mode


def resolved(spec: Any, network: Network, mode: Mode, rank: int | None) -> Noise:
    """Return the noise for a network as `noise.resolve` does; the last few are remembered."""
    known = _KNOWN.setdefault(network, [])
    held: list[Tensor] = []
    of = (mode, rank, _state(spec, held))
    for made_of, _, found in known:
        if made_of == of:
            return found
    made = resolve(spec, network, mode, rank)
    known.append((of, held, made))
    del known[:-_MOST_KNOWN]
    return made


def _state(spec: Any, held: list[Tensor]) -> Any:
    """Return what differs where noise is made of something else by now.

    Tensors are told by their ids and versions: those that are `held` keep their ids.
    """
    if isinstance(spec, Mapping):
        return [(name, _state(part, held)) for name, part in spec.items()]
    if isinstance(spec, list | tuple):
        return [_state(part, held) for part in spec]
    if isinstance(spec, Tensor) and not spec.is_inference():
        held.append(spec)
        return id(spec), spec._version
    if isinstance(spec, Tensor | np.ndarray):
        values = np.asarray(spec.cpu() if isinstance(spec, Tensor) else spec)
        return values.shape, values.dtype.str, hashlib.sha256(values.tobytes()).digest()
    if isinstance(spec, str | Path) and Path(spec).is_file():
        return str(spec), Path(spec).stat().st_mtime_ns
    return spec


def scales(scale: Scale, trace: Trace, distortion: Distortion) -> Tensor:
    """Return the unit of the multipliers for each sample, ``(samples,)``, >= 0."""
    selected = distortion.selected
    if scale == "target":
        return selected.square()
    if scale == "none":
        return torch.ones_like(selected)
    every = torch.arange(trace.n_rows, device=trace.inputs.device)
    return distortion.value(torch.zeros_like(trace.inputs), every)


def problems(
    trace: Trace, solver: SolverName, asked: tuple[float, ...], start: Start, scale: Tensor
) -> Problems:
    """Return a problem for each sample and multiplier, or rate: those of a sample together."""
    inputs = trace.inputs
    n_masks = len(asked)
    rows = torch.arange(trace.n_rows, device=inputs.device).repeat_interleave(n_masks)
    wanted = torch.tensor(asked, dtype=scale.dtype, device=inputs.device).repeat(trace.n_rows)
    is_priced = KIND[solver] == "multiplier"
    return Problems(
        rows=rows,
        start=_starts(trace, start).repeat_interleave(n_masks, 0),
        multiplier=wanted if is_priced else None,
        rate=None if is_priced else wanted,
        scale=scale[rows],
    )


def of_each(problems: Problems) -> Tensor:
    """Return the multiplier, or the rate, that each problem asks for, ``(n,)``."""
    if problems.multiplier is not None:
        return problems.multiplier
    if problems.rate is None:
        raise ValueError("problems have neither multipliers nor rates; give them one of the two")
    return problems.rate


def _starts(trace: Trace, start: Start) -> Tensor:
    """Return the mask that each sample starts from, the same for all its multipliers."""
    inputs = trace.inputs
    if not isinstance(start, Mapping):
        return torch.full_like(inputs, float(start))
    noise = trace.noise("start", inputs.shape[1:]).to(inputs)
    return (start["mean"] + start["stdev"] * noise).clamp(0, 1)
